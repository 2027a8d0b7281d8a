package reuseport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/reusetransport/reuseport/internal/netaddr"
)

var (
	// ErrWrongProto says that a multiaddr is not one of /ip4, /ip6,
	// /ip6zone/…/ip6, /dns, /dns4 or /dns6 followed by /tcp and nothing else, or
	// that a network is not "tcp", "tcp4" or "tcp6".
	ErrWrongProto = errors.New("reuseport: not a TCP address")

	// ErrNoReuse says that RequireReuse or Punch found no listener's port that it could
	// use.
	ErrNoReuse = errors.New("reuseport: no listening port to dial from")

	// ErrTupleInUse says that RequireReuse or Punch needs the 4-tuple of listening port
	// and remote address, and that it belongs to another connection. That may be one
	// that the peer is opening right now.
	ErrTupleInUse = errors.New("reuseport: 4-tuple in use")

	// ErrBadPortUse says that a PortUse is none of the constants, or its name none of theirs.
	ErrBadPortUse = errors.New("reuseport: invalid PortUse")

	// ErrUnknownName says that a text is not the name of a Cause, a Direction, a Distance
	// or a PathState.
	ErrUnknownName = errors.New("reuseport: unknown name")
)

// ErrPunchLimit says that a punch has sent as many SYNs as one may, that a Transport
// runs no more punches at one time, or that all of them together had spent their SYNs
// when the punch ended.
var ErrPunchLimit = errors.New("reuseport: limit of punches reached")

var (
	// errShutdown is what Listen, Dial and Punch return after Shutdown.
	errShutdown = fmt.Errorf("reuseport: transport is shut down: %w", net.ErrClosed)

	// errNoReuseOption marks that the system refused the socket options for reuse.
	errNoReuseOption = errors.New("reuseport: socket options for reuse refused")

	// errSelfConnection is the fault of a dial that reached its own socket.
	errSelfConnection = errors.New("reuseport: connected to itself")

	// errTupleHeld is the fault of a local address that was not tried, because a connection of
	// the same Transport has the 4-tuple.
	errTupleHeld = fmt.Errorf("%w by a connection of this Transport", ErrTupleInUse)

	// errPathSilent is the fault of a local address that was not tried, because
	// earlier dials from it were not answered. Its Cause is PathSilent.
	errPathSilent = errors.New("reuseport: what left this port was not answered lately")

	// errNotHedged ends a hedge that need not start.
	errNotHedged = errors.New("reuseport: no hedge")
)

// opError makes an error like package net's. An address that is not valid is left out.
func opError(op, network string, laddr, raddr netip.AddrPort, err error) *net.OpError {
	e := &net.OpError{Op: op, Net: network, Err: err}
	if laddr.IsValid() {
		e.Source = net.TCPAddrFromAddrPort(laddr)
	}
	if raddr.IsValid() {
		e.Addr = net.TCPAddrFromAddrPort(raddr)
	}
	return e
}

// because returns err with sentinel before its cause. A *net.OpError stays one.
func because(sentinel, err error) error {
	op, ok := err.(*net.OpError)
	if !ok {
		return fmt.Errorf("%w: %w", sentinel, err)
	}
	caused := *op
	caused.Err = fmt.Errorf("%w: %w", sentinel, op.Err)
	return &caused
}

// contextError is the error of a dial whose context has ended.
func contextError(ctx context.Context, laddr, raddr netip.AddrPort) error {
	return opError("dial", netaddr.Network(raddr.Addr()), laddr, raddr, ctx.Err())
}

// outOfTime is the error of a dial that the deadline of its context ended. Package
// net has a timer of its own for that deadline, which usually fires first, and its
// error matches os.ErrDeadlineExceeded alone (TestDialDeadline).
type outOfTime struct{ error }

func (outOfTime) Timeout() bool { return true }

func (outOfTime) Is(target error) bool { return target == context.DeadlineExceeded }

func (e outOfTime) Unwrap() error { return e.error }

// nameDeadline makes a dial's error match context.DeadlineExceeded where package
// net's timer ended it.
func nameDeadline(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok && errors.Is(op.Err, os.ErrDeadlineExceeded) {
		op.Err = outOfTime{op.Err}
	}
	return err
}
