package reuseport

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Dial is DialContext without a deadline.
func (t *Transport) Dial(raddr ma.Multiaddr) (manet.Conn, error) {
	return t.DialContext(context.Background(), raddr)
}

// DialContext connects to raddr: /ip4, /ip6, /ip6zone/…/ip6, /dns, /dns4 or
// /dns6, followed by /tcp; anything else is ErrWrongProto. The connection is a
// *Conn and leaves from a port that t listens on, as the PortUse in force says. A
// name is resolved once, by net.DefaultResolver, and its addresses are tried in
// order.
//
// Only faults of the local address (4-tuple taken, bind conflict, address gone)
// make it try another one; any other error is the answer after one SYN. A SYN that
// stays unanswered may be hedged, see Transport.HedgeDelay. The error
// joins all that failed, the first one first: errors.Is finds the errno and
// context.Canceled or context.DeadlineExceeded, errors.As the *net.OpError, whose
// text has the addresses. With RequireReuse it is ErrNoReuse or ErrTupleInUse
// where no listening port could be used. After Shutdown it is net.ErrClosed.
//
// Once connected, the end of ctx does not affect the connection, and neither does
// closing the listener whose port it uses.
func (t *Transport) DialContext(ctx context.Context, raddr ma.Multiaddr) (manet.Conn, error) {
	g, err := parseMultiaddr(raddr)
	if err != nil {
		return nil, t.failed(err)
	}
	c, err := t.dialTarget(ctx, g)
	if err != nil {
		return nil, t.failed(err)
	}
	return c, nil
}

// DialNetContext is DialContext for the networks "tcp", "tcp4" and "tcp6" and an
// address as net.Dial takes it. It fits http.Transport.DialContext and dialers of
// WebSocket libraries.
func (t *Transport) DialNetContext(ctx context.Context, network, address string) (net.Conn, error) {
	g, err := parseNetAddress(ctx, network, address)
	if err != nil {
		return nil, t.failed(&net.OpError{Op: "dial", Net: network, Err: err})
	}
	c, err := t.dialTarget(ctx, g)
	if err != nil {
		return nil, t.failed(err)
	}
	return c, nil
}

// failed counts a dial that ends with err.
func (t *Transport) failed(err error) error {
	t.counters.failed.Add(1)
	return err
}

// dialTarget resolves a name if there is one and dials until one address answers.
func (t *Transport) dialTarget(ctx context.Context, g target) (*Conn, error) {
	use, err := t.portUse(ctx)
	if err != nil {
		return nil, err
	}
	if g.host == "" {
		return t.dial(ctx, g.addr, use)
	}
	addrs, err := g.resolve(ctx)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	var errs []error
	for i, raddr := range addrs {
		c, err := t.dialShare(ctx, raddr, use, len(addrs)-i)
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// dialShare dials one of several addresses with its fair share of the time that
// is left, so that a silent first address leaves time for the next.
func (t *Transport) dialShare(ctx context.Context, raddr netip.AddrPort, use PortUse, left int) (*Conn, error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(left))
		defer cancel()
	}
	return t.dial(ctx, raddr, use)
}

// dial connects to one address. It is the whole of a dial, in order: look at the
// listeners, try the local addresses that fit, best first, then the ephemeral
// port if the policy allows, and wrap the connection once.
func (t *Transport) dial(ctx context.Context, raddr netip.AddrPort, use PortUse) (*Conn, error) {
	now := t.registry.load()
	if now.shut {
		return nil, errShutdown
	}
	raddr = dialable(raddr)
	a := attempt{t: t, raddr: raddr, listeners: now.addrs, use: use, cause: ByPolicy}
	if use != NewPort {
		a.cause = NoCause
		if c, err := a.fromListeners(ctx); c != nil || err != nil {
			return c, err
		}
	}
	if use == RequireReuse {
		return nil, a.noReuse()
	}
	return a.fromNewPort(ctx)
}

// attempt is a dial to one address while it runs.
type attempt struct {
	t         *Transport
	raddr     netip.AddrPort
	listeners []listenAddr // as they were when the dial began
	use       PortUse
	cause     Cause   // why the first local address could not be used
	faults    []error // of the local addresses tried
}

// fromListeners tries the local addresses that fit. It returns a connection, or
// an error that is the answer, or neither if the local addresses are to blame.
func (a *attempt) fromListeners(ctx context.Context) (*Conn, error) {
	source, err := a.source(ctx, needsSource(a.listeners, a.raddr, a.use == RequireReuse))
	if err != nil {
		return nil, err
	}
	c, err := a.tryEach(ctx, source)
	if a.cause != BindConflict || source.IsValid() || c != nil || err != nil {
		return c, err
	}
	// A stranger on another address of the host makes the wildcard conflict; the
	// exact address does not (TestStrangerOnSamePort in lab).
	source, err = a.source(ctx, needsSource(a.listeners, a.raddr, true))
	if err != nil || !source.IsValid() {
		return nil, err
	}
	return a.tryEach(ctx, source)
}

// source asks the kernel for the source address if it is needed. Where the kernel
// knows none the answer is the unspecified address, which fits no specific
// listener, and the dial itself will tell why; with RequireReuse there is no such
// dial, and the kernel's error is the answer.
func (a *attempt) source(ctx context.Context, needed bool) (netip.Addr, error) {
	if !needed {
		return netip.Addr{}, nil
	}
	source, err := a.t.sourceAddr(ctx, a.raddr)
	if err == nil {
		return source, nil
	}
	if a.use == RequireReuse || ctx.Err() != nil {
		return source, a.opError(err)
	}
	return wildcard(a.raddr.Addr(), 0).Addr(), nil
}

// opError is a *net.OpError of this dial with the cause of err, which may be that
// of the socket that asked for the source.
func (a *attempt) opError(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return &net.OpError{Op: "dial", Net: network(a.raddr.Addr()), Addr: net.TCPAddrFromAddrPort(a.raddr), Err: err}
}

// tryEach dials from each local address in turn, as long as only the local
// address is to blame.
func (a *attempt) tryEach(ctx context.Context, source netip.Addr) (*Conn, error) {
	var room [4]netip.AddrPort // more listeners than that cost an allocation
	for _, laddr := range selectAddrs(room[:0], a.listeners, a.raddr, source, rand.Uint32()) {
		c, cause, err := a.fromFree(ctx, laddr)
		if err == nil {
			return a.finish(c)
		}
		if cause == NoCause {
			return nil, a.joined(err)
		}
		a.blame(cause, err)
		if ctx.Err() != nil {
			return nil, a.joined(ended(ctx, laddr, a.raddr))
		}
	}
	return nil, nil
}

// fromFree dials from laddr, and once more if a pending close of ours held the
// 4-tuple. With the error it returns what localFault says of it.
func (a *attempt) fromFree(ctx context.Context, laddr netip.AddrPort) (*net.TCPConn, Cause, error) {
	c, err := a.fromShared(ctx, laddr)
	if err == nil {
		return c, NoCause, nil
	}
	cause := localFault(err)
	if cause == TupleInUse && a.freed(ctx, laddr) {
		c, err = a.fromShared(ctx, laddr)
		cause = localFault(err)
	}
	if cause == TupleInUse && a.use == RequireReuse && !a.hasSource(ctx, laddr, err) {
		cause = NoCause
	}
	return c, cause, err
}

// freed says whether a pending close of ours may have held the 4-tuple and does so no
// more.
func (a *attempt) freed(ctx context.Context, laddr netip.AddrPort) bool {
	path, ok := a.pathOfClose(ctx, laddr)
	return ok && a.t.flushes.free(ctx, path, a.raddr)
}

// pathOfClose returns the local address of a pending close that may hold the 4-tuple. Of
// the addresses of a wildcard it is the one that the dial would leave from: a close on
// another one is left alone (TestRedialFreesOneTuple).
func (a *attempt) pathOfClose(ctx context.Context, laddr netip.AddrPort) (path netip.AddrPort, ok bool) {
	if !a.t.flushes.mayHold(laddr.Port(), a.raddr) {
		return path, false
	}
	path, err := a.pathOf(ctx, laddr)
	return path, err == nil
}

// hasSource says whether err speaks of a taken 4-tuple. Linux has the same error
// where the host has no address towards raddr, and then there is no source either.
func (a *attempt) hasSource(ctx context.Context, laddr netip.AddrPort, err error) bool {
	if !isAddrNotAvail(err) || !laddr.Addr().IsUnspecified() {
		return true
	}
	_, err = a.t.sourceAddr(ctx, a.raddr)
	return err == nil
}

// blame books a local address that could not be used.
func (a *attempt) blame(cause Cause, err error) {
	if a.cause == NoCause {
		a.cause = cause
	}
	if a.use == RequireReuse {
		err = fmt.Errorf("%w: %w", requireError(cause), err)
	}
	a.faults = append(a.faults, err)
}

// joined is the error of a dial that ends with err. Alone it stays as package net
// made it.
func (a *attempt) joined(err error) error {
	if len(a.faults) == 0 {
		return err
	}
	return errors.Join(append(a.faults, err)...)
}

// requireError names a cause for those who asked for RequireReuse.
func requireError(cause Cause) error {
	if cause == TupleInUse {
		return ErrTupleInUse
	}
	return ErrNoReuse
}

// noReuse is the error of RequireReuse after all local addresses were tried.
func (a *attempt) noReuse() error {
	if len(a.faults) == 0 {
		return a.opError(ErrNoReuse)
	}
	return errors.Join(a.faults...)
}

// fromNewPort dials from an ephemeral port and remembers why.
func (a *attempt) fromNewPort(ctx context.Context) (*Conn, error) {
	if a.cause == NoCause {
		a.cause = noCandidate(a.listeners, a.raddr)
	}
	c, err := a.t.connectNew(ctx, a.raddr)
	if err != nil {
		return nil, a.joined(err)
	}
	if len(a.faults) > 0 && a.t.Logger != nil {
		a.t.Logger.Debug("dial fell back to an ephemeral port",
			"raddr", a.raddr, "cause", a.cause.String(), "err", a.faults[0])
	}
	return a.finish(c)
}

// noCandidate says why there was no local address to try.
func noCandidate(listeners []listenAddr, raddr netip.AddrPort) Cause {
	for _, l := range listeners {
		if l.serves(raddr.Addr()) && l.covers(raddr) {
			return SelfConnection
		}
	}
	return NoListener
}

// finish wraps a connection. Whether it reuses a port is read off the socket.
func (a *attempt) finish(tcp *net.TCPConn) (*Conn, error) {
	c := &Conn{TCPConn: tcp, t: a.t, cause: a.cause}
	c.reused = isReused(a.listeners, netAddr(tcp.LocalAddr()))
	if c.reused {
		c.cause = NoCause
		if err := c.SetLinger(0); err != nil {
			return nil, errors.Join(err, tcp.Close())
		}
		a.t.handshaken(c)
	} else if c.cause == NoCause {
		c.cause = NoListener // the kernel chose an address that nobody listens on
	}
	a.t.counters.count(c)
	return c, nil
}

// isReused says whether one of the listeners is on local.
func isReused(listeners []listenAddr, local netip.AddrPort) bool {
	for _, l := range listeners {
		if l.covers(local) {
			return true
		}
	}
	return false
}

// ended is the error of a dial whose context has ended.
func ended(ctx context.Context, laddr, raddr netip.AddrPort) error {
	return &net.OpError{Op: "dial", Net: network(raddr.Addr()), Source: net.TCPAddrFromAddrPort(laddr),
		Addr: net.TCPAddrFromAddrPort(raddr), Err: ctx.Err()}
}

// connect dials from laddr, whose port somebody listens on. It sends one SYN, and
// none if ctx has ended already, which DialTCP does not look at before it sends
// (TestEndedContextSendsNothing).
func (t *Transport) connect(ctx context.Context, laddr, raddr netip.AddrPort) (*net.TCPConn, error) {
	if ctx.Err() != nil {
		return nil, ended(ctx, laddr, raddr)
	}
	d := net.Dialer{Control: t.reuseControl(), KeepAlive: ownKeepAlive}
	c, err := d.DialTCP(ctx, network(raddr.Addr()), laddr, raddr)
	if err != nil {
		return nil, nameDeadline(err)
	}
	if !selfConnected(c) {
		keepAlive(c)
		return c, nil
	}
	err = &net.OpError{Op: "dial", Net: network(raddr.Addr()), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: errSelfConnection}
	return nil, errors.Join(err, c.SetLinger(0), c.Close())
}

// connectNew dials from a port that the kernel chooses. DialTCP would bind port 0
// first, which costs a system call and halves the ports that the kernel may
// choose from; DialContext leaves the choice to connect.
func (t *Transport) connectNew(ctx context.Context, raddr netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{Control: t.Control, KeepAlive: ownKeepAlive}
	c, err := d.DialContext(ctx, network(raddr.Addr()), raddr.String())
	if err != nil {
		return nil, nameDeadline(err)
	}
	tcp := c.(*net.TCPConn)
	keepAlive(tcp)
	return tcp, nil
}

// selfConnected says whether c is connected to its own socket, which TCP allows
// (simultaneous open with oneself, RFC 9293 section 3.5). net.Dialer guards
// against it only where it chose the port.
func selfConnected(c *net.TCPConn) bool {
	return netAddr(c.LocalAddr()) == netAddr(c.RemoteAddr())
}
