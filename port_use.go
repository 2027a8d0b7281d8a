package reuseport

import (
	"context"
	"fmt"
	"net/netip"
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

	// AwaitReuse is RequireReuse, and waits until ctx ends while the 4-tuple of each
	// listening port is in use: for callers that dial a peer again while they, or
	// somebody else, still close the connection before. If it waits in vain the error is
	// ErrTupleInUse and that of ctx.
	AwaitReuse
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
	case AwaitReuse:
		return "AwaitReuse"
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

// localAddrKey is the context key of WithLocalAddr.
type localAddrKey struct{}

// WithLocalAddr returns a context that makes dials and punches of any Transport use the port
// of its listener on laddr and of no other: for a host that is to be seen from one of its
// addresses. laddr is the address of the listener, a wildcard for one that listens on all.
// A specific listener's address is bound as it is, and the kernel routes by it. A dial that
// cannot use the port goes on as the PortUse in force says; NewPort ignores laddr. Under any
// other policy the dial fails with ErrNoReuse if nobody listens on laddr.
func WithLocalAddr(ctx context.Context, laddr netip.AddrPort) context.Context {
	return context.WithValue(ctx, localAddrKey{}, netip.AddrPortFrom(laddr.Addr().Unmap(), laddr.Port()))
}

// check returns ErrBadPortUse for a value that is none of the constants.
func (u PortUse) check() error {
	if u < PreferReuse || u > AwaitReuse {
		return fmt.Errorf("%w: %v", ErrBadPortUse, u)
	}
	return nil
}
