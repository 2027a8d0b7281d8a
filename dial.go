package reuseport

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Dial is DialContext with context.Background().
func (t *Transport) Dial(raddr ma.Multiaddr) (manet.Conn, error) {
	return t.DialContext(context.Background(), raddr)
}

// DialContext connects to raddr, which is /ip4, /ip6, /ip6zone/…/ip6, /dns, /dns4 or
// /dns6 followed by /tcp; anything else is ErrWrongProto. The connection is a *Conn. It
// leaves from a port that t listens on, as the PortUse in force says. A name is resolved
// once, by net.DefaultResolver, and its addresses are tried in order.
//
// Only a fault of the local address (4-tuple taken, bind conflict, address gone) makes
// DialContext try another local address. Any other error is the answer, after one SYN. A
// SYN that stays unanswered may be hedged, see Transport.HedgeDelay.
//
// The error joins everything that failed, the first failure first: errors.Is finds the
// errno and context.Canceled or context.DeadlineExceeded, errors.As finds the
// *net.OpError, whose text has the addresses. With RequireReuse it is ErrNoReuse or
// ErrTupleInUse if no listening port could be used. After Shutdown it is net.ErrClosed.
//
// Once connected, neither the end of ctx nor closing the listener whose port it uses
// affects the connection.
func (t *Transport) DialContext(ctx context.Context, raddr ma.Multiaddr) (manet.Conn, error) {
	began := time.Now()
	to, err := parseMultiaddr(raddr)
	if err != nil {
		return nil, t.failed(began, err)
	}
	c, err := t.dialTarget(ctx, to)
	if err != nil {
		return nil, t.failed(began, err)
	}
	t.counters.dialed(began, c)
	return c, nil
}

// DialNetContext is DialContext for the networks "tcp", "tcp4" and "tcp6" and an
// address as net.Dial takes it. It fits http.Transport.DialContext and dialers of
// WebSocket libraries.
func (t *Transport) DialNetContext(ctx context.Context, network, address string) (net.Conn, error) {
	began := time.Now()
	to, err := parseNetAddress(ctx, network, address)
	if err != nil {
		return nil, t.failed(began, opError("dial", network, netip.AddrPort{}, netip.AddrPort{}, err))
	}
	c, err := t.dialTarget(ctx, to)
	if err != nil {
		return nil, t.failed(began, err)
	}
	t.counters.dialed(began, c)
	return c, nil
}

// failed counts a dial that began then and failed, and returns its error.
func (t *Transport) failed(began time.Time, err error) error {
	t.counters.failed.Add(1)
	t.counters.dialsFailed.Add(time.Since(began))
	return err
}

// dialTarget dials an address, or resolves a name and dials until one address answers.
func (t *Transport) dialTarget(ctx context.Context, to target) (*Conn, error) {
	use, err := t.portUse(ctx)
	if err != nil {
		return nil, err
	}
	if to.host == "" {
		return t.dial(ctx, to.addr, use)
	}
	addrs, err := to.resolve(ctx)
	if err != nil {
		return nil, opError("dial", "tcp", netip.AddrPort{}, netip.AddrPort{}, err)
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

// dialShare dials one of several addresses with its fair share of the time that is left, so
// that a silent first address leaves time for the next.
func (t *Transport) dialShare(ctx context.Context, raddr netip.AddrPort, use PortUse, left int) (*Conn, error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(left))
		defer cancel()
	}
	return t.dial(ctx, raddr, use)
}

// dial connects to one address. It tries the local addresses that fit, best first. After a
// fault of the local address it goes on to the next one, and in the end to an ephemeral port
// if the policy allows it. Any other error ends the dial.
//
// If a stranger holds the port on another address of the host, binding the wildcard
// conflicts, while binding the exact address works (TestStrangerOnSamePort in lab). After
// such a conflict dial asks for the source and chooses the local addresses once more.
func (t *Transport) dial(ctx context.Context, raddr netip.AddrPort, use PortUse) (*Conn, error) {
	now := t.registry.load()
	if now.shut {
		return nil, errShutdown
	}
	a := attempt{t: t, raddr: dialable(raddr), listeners: now.addrs, use: use}
	var room [4]netip.AddrPort // on the stack; more candidates cost an allocation
	exact := use == RequireReuse
	for again := use != NewPort; again; exact = true {
		laddrs, err := a.localAddrs(ctx, room[:0], exact)
		if err != nil {
			return nil, err
		}
		for _, laddr := range laddrs {
			tcp, err := a.connectFrom(ctx, laddr)
			if err == nil {
				return a.finish(tcp)
			}
			if err := a.blame(ctx, laddr, err); err != nil {
				return nil, err
			}
		}
		again = a.cause == BindConflict && !a.source.IsValid() && needsSource(a.listeners, a.raddr, true)
	}
	if use == RequireReuse {
		return nil, a.noReuse()
	}
	return a.fromNewPort(ctx)
}

// connectFrom dials from laddr, by the health of its path where a hedge is allowed. It dials
// again while a close of ours holds the 4-tuple.
func (a *attempt) connectFrom(ctx context.Context, laddr netip.AddrPort) (tcp *net.TCPConn, err error) {
	for try := 0; ; try++ {
		if a.mayHedge() {
			tcp, err = a.connectByHealth(ctx, laddr)
		} else {
			tcp, err = a.t.connect(ctx, laddr, a.raddr)
		}
		if localFault(err) != TupleInUse || !a.awaitRelease(ctx, laddr, try) {
			return tcp, err
		}
	}
}

// portUse returns the policy in force for one dial.
func (t *Transport) portUse(ctx context.Context) (PortUse, error) {
	use, ok := PortUseOf(ctx)
	if !ok {
		use = t.PortUse
	}
	return use, use.check()
}
