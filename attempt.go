package reuseport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/reusetransport/reuseport/internal/errno"
	"github.com/reusetransport/reuseport/internal/netaddr"
	"github.com/reusetransport/reuseport/internal/sourceaddr"
)

// An attempt is a dial or a punch to one address while it runs: what it may use, and what
// has failed so far.
type attempt struct {
	t         *Transport
	raddr     netip.AddrPort
	listeners []listenAddr // as they were when the dial began
	few       []listenAddr // those of them that the dial looks at
	use       PortUse
	pick      uint32     // which of equal listeners comes first
	chosen    bool       // listeners is the one that WithLocalAddr chose
	source    netip.Addr // what the kernel would dial from; not valid if nobody asked
	noSource  error      // why source is the unspecified address
	cause     Cause      // why the connection will not reuse a port, or NoCause
	faults    []error    // of the local addresses tried
}

// choose narrows the listeners to the one that WithLocalAddr chose, if it did. It returns
// ErrNoReuse if nobody listens there.
func (a *attempt) choose(ctx context.Context) error {
	laddr, ok := ctx.Value(localAddrKey{}).(netip.AddrPort)
	if !ok || a.use == NewPort {
		return nil
	}
	i := slices.IndexFunc(a.listeners, func(l listenAddr) bool { return l.isOn(laddr) })
	if i < 0 {
		return fmt.Errorf("%w: nobody listens on %v", ErrNoReuse, laddr)
	}
	a.listeners, a.chosen = a.listeners[i:i+1], true
	a.few = a.listeners
	return nil
}

// localAddrs appends to dst the local addresses to try. With exact, specific listeners are
// bound by their own addresses and never by the wildcard. A specific listener that the user
// chose is bound whatever source the kernel would choose.
func (a *attempt) localAddrs(ctx context.Context, dst []netip.AddrPort, exact bool) ([]netip.AddrPort, error) {
	if a.chosen && a.listeners[0].class() == specific {
		return selectAddrs(dst, a.listeners, a.raddr, a.listeners[0].Addr(), 0), nil
	}
	if needsSource(a.few, a.raddr, exact) {
		if err := a.findSource(ctx); err != nil {
			return nil, err
		}
	}
	dst = selectAddrs(dst, a.few, a.raddr, a.source, a.pick)
	if len(dst) == 0 && a.source.IsValid() {
		dst = a.standIns(dst)
	}
	return dst, nil
}

// standIns appends the specific listeners to dial from where none is on the kernel's source. With
// RequireReuse that is any of them: the dial leaves by the route that the host has for it.
// Otherwise it must be on the interface that the kernel would use, since an address of a VPN is
// not to be seen elsewhere. Where the kernel knows no source at all, nothing else is left.
func (a *attempt) standIns(dst []netip.AddrPort) []netip.AddrPort {
	all := a.use == RequireReuse || a.source.IsUnspecified()
	isNear := func(addr netip.Addr) bool { return sourceaddr.SameInterface(addr, a.source) }
	return appendStandIns(dst, a.few, a.raddr, isNear, all)
}

// findSource asks the kernel for the source address. Where the kernel knows none, source
// becomes the unspecified address, which fits no specific listener, and the dial itself then
// shows why.
func (a *attempt) findSource(ctx context.Context) error {
	source, err := a.t.findSource(ctx, a.raddr)
	if err == nil {
		a.source = source
		return nil
	}
	if ctx.Err() != nil {
		return a.dialError(err)
	}
	a.noSource = a.dialError(err)
	a.source = netaddr.Wildcard(a.raddr.Addr(), 0).Addr()
	return nil
}

// mayHedge reports whether a hedge may stand behind the dial.
func (a *attempt) mayHedge() bool {
	return a.use != RequireReuse && a.t.HedgeDelay >= 0 && !a.raddr.Addr().IsLoopback()
}

// connectByHealth dials from laddr as the health of its path advises.
func (a *attempt) connectByHealth(ctx context.Context, laddr netip.AddrPort) (*net.TCPConn, error) {
	by := &tcpDialers{t: a.t, laddr: laddr, raddr: a.raddr}
	tcp, won, err := a.t.dialByHealth(ctx, laddr, a.raddr, by)
	if won {
		a.cause = HedgeWon
	}
	return tcp, err
}

// awaitRelease waits until a close of ours that may hold the 4-tuple gives it up. It reports
// whether another try is worth it.
func (a *attempt) awaitRelease(ctx context.Context, laddr netip.AddrPort, try int) bool {
	local, ok := a.closeMayHold(ctx, laddr)
	return ok && a.t.flushes.AwaitRelease(ctx, local, a.raddr, try)
}

// closeMayHold reports whether a close of ours, pending or recent, may hold the 4-tuple. local
// is the address that the dial would leave from, also where laddr is a wildcard: closes on
// other addresses are left alone (TestRedialFreesOneTuple).
func (a *attempt) closeMayHold(ctx context.Context, laddr netip.AddrPort) (local netip.AddrPort, may bool) {
	if !a.t.flushes.MayHold(laddr.Port(), a.raddr) {
		return local, false
	}
	local, err := a.t.withSource(ctx, laddr, a.raddr)
	return local, err == nil
}

// blame records that laddr could not be used. If laddr is not to blame, or ctx has ended, it
// returns the error of the dial.
func (a *attempt) blame(ctx context.Context, laddr netip.AddrPort, err error) error {
	cause := localFault(err)
	if cause == BindConflict && a.t.isForeign(laddr.Port()) {
		cause = ForeignOwner
	}
	if cause == TupleInUse && a.use == RequireReuse && a.lacksSource(ctx, laddr, err) {
		cause = NoCause
	}
	if cause == NoCause {
		return a.joined(err)
	}
	if a.cause == NoCause {
		a.cause = cause
	}
	if a.use == RequireReuse {
		err = because(requireError(cause), err)
	}
	a.faults = append(a.faults, err)
	if ctx.Err() != nil {
		return a.joined(contextError(ctx, laddr, a.raddr))
	}
	return nil
}

// lacksSource reports whether err, which localFault took for a taken 4-tuple, means that the
// host has no address towards raddr. Linux has one error for both; in the second case the
// kernel knows no source either.
func (a *attempt) lacksSource(ctx context.Context, laddr netip.AddrPort, err error) bool {
	if !errno.IsAddrNotAvail(err) || !laddr.Addr().IsUnspecified() {
		return false
	}
	_, err = a.t.findSource(ctx, a.raddr)
	return err != nil
}

// joined returns err joined behind the faults so far, or err alone, unchanged, if there are
// none.
func (a *attempt) joined(err error) error {
	if len(a.faults) == 0 {
		return err
	}
	return failures(append(a.faults, err)...)
}

// noReuse returns the error of RequireReuse after all local addresses have failed.
func (a *attempt) noReuse() error {
	switch {
	case len(a.faults) > 0:
	case a.noSource != nil:
		return a.noSource
	default:
		return a.dialError(ErrNoReuse)
	}
	return failures(a.faults...)
}

// dialError returns a *net.OpError of this dial for err. If err is the *net.OpError of the
// socket that asked for the source, only its cause is kept.
func (a *attempt) dialError(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	return opError("dial", netaddr.Network(a.raddr.Addr()), netip.AddrPort{}, a.raddr, err)
}

// fromNewPort dials from an ephemeral port and records why.
func (a *attempt) fromNewPort(ctx context.Context) (*Conn, error) {
	if a.cause == NoCause {
		a.cause = whyNoCandidate(a.use, a.listeners, a.raddr)
	}
	tcp, err := a.t.connectNew(ctx, a.raddr)
	if err != nil {
		return nil, a.joined(err)
	}
	if len(a.faults) > 0 && a.t.Logger != nil {
		a.t.Logger.Debug("dial fell back to an ephemeral port",
			"raddr", a.raddr, "cause", a.cause.String(), "err", a.faults[0])
	}
	return a.finish(tcp), nil
}

// whyNoCandidate returns why there was no local address to try.
func whyNoCandidate(use PortUse, listeners []listenAddr, raddr netip.AddrPort) Cause {
	if use == NewPort {
		return ByPolicy
	}
	isSelf := func(l listenAddr) bool { return l.serves(raddr.Addr()) && l.covers(raddr) }
	if slices.ContainsFunc(listeners, isSelf) {
		return SelfConnection
	}
	return NoListener
}

// finish wraps a connection. Whether it reuses a port is read off the socket.
func (a *attempt) finish(tcp *net.TCPConn) *Conn {
	c := a.t.newConn(tcp)
	local := netaddr.From(tcp.LocalAddr())
	isOurs := func(l listenAddr) bool { return l.covers(local) }
	c.reused = slices.ContainsFunc(a.few, isOurs) || slices.ContainsFunc(a.listeners, isOurs)
	switch {
	case c.reused:
		_ = c.SetLinger(0) // without it a crash does not free the 4-tuple
		a.t.flushes.Forget(local, a.raddr)
		a.t.hold(tcp, local, a.raddr)
		a.t.recordHandshake(local, netaddr.From(tcp.RemoteAddr()))
	case a.cause == NoCause:
		c.cause = NoListener // the kernel chose an address that nobody listens on
	default:
		c.cause = a.cause
	}
	return c
}
