package reuseport

import (
	"context"
	"fmt"
)

// PortUse says from which port a dial may leave. What really happened is told by
// Conn.Reused.
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

// WithPortUse returns a context with which a dial of any Transport follows use
// instead of Transport.PortUse. A context is the one thing that crosses call
// chains such as go-libp2p's unchanged.
func WithPortUse(ctx context.Context, use PortUse) context.Context {
	return context.WithValue(ctx, portUseKey{}, use)
}

// portUse is the policy in force for one dial.
func (t *Transport) portUse(ctx context.Context) (PortUse, error) {
	use := t.PortUse
	if u, ok := ctx.Value(portUseKey{}).(PortUse); ok {
		use = u
	}
	if use < PreferReuse || use > RequireReuse {
		return use, fmt.Errorf("%w: %v", ErrBadPortUse, use)
	}
	return use, nil
}
