package reuseport

import (
	"context"
	"fmt"
)

// PortUse says from which port a dial may leave. Conn.Reused tells from which one it
// did.
type PortUse int

const (
	// PreferReuse dials from a listening port where one fits, and otherwise from
	// an ephemeral port. It is the zero value.
	PreferReuse PortUse = iota

	// NewPort dials from an ephemeral port, as AutoNAT's dial-backs must.
	NewPort

	// RequireReuse dials from a listening port or fails with ErrNoReuse or
	// ErrTupleInUse. No SYN leaves from any other port.
	RequireReuse
)

// String returns the name of the constant.
func (u PortUse) String() string {
	switch u {
	case PreferReuse:
		return "PreferReuse"
	case NewPort:
		return "NewPort"
	case RequireReuse:
		return "RequireReuse"
	default:
		return fmt.Sprintf("PortUse(%d)", int(u))
	}
}

// portUseKey is the context key of WithPortUse.
type portUseKey struct{}

// WithPortUse returns a context that makes dials of any Transport follow use instead of
// Transport.PortUse. Most call chains hand a context on unchanged, but not all: the
// swarm of go-libp2p makes a new one for its dials.
func WithPortUse(ctx context.Context, use PortUse) context.Context {
	return context.WithValue(ctx, portUseKey{}, use)
}

// PortUseOf returns what WithPortUse put into ctx, and whether it did. It is for code
// that wraps a Transport and chooses ports where its caller did not.
func PortUseOf(ctx context.Context) (PortUse, bool) {
	use, ok := ctx.Value(portUseKey{}).(PortUse)
	return use, ok
}

// check returns ErrBadPortUse for a value that is none of the constants.
func (u PortUse) check() error {
	if u < PreferReuse || u > RequireReuse {
		return fmt.Errorf("%w: %v", ErrBadPortUse, u)
	}
	return nil
}
