package reuseport

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/reusetransport/reuseport/internal/errno"
	"github.com/reusetransport/reuseport/internal/netaddr"
	"github.com/reusetransport/reuseport/internal/punchpace"
)

const (
	// tupleGrace is how long a punch waits while its 4-tuple is taken: the peer's own
	// connection may hold it and still be on its way into the accept queue. That takes
	// a round trip, and a second more if the kernel has to repeat its SYN-ACK.
	tupleGrace = 2 * time.Second

	// tuplePause is the time between two tries while the 4-tuple is taken. Such a
	// try sends nothing.
	tuplePause = 10 * time.Millisecond
)

// Punch connects to raddr, /ip4 or /ip6 with /tcp, by TCP simultaneous open (RFC 9293
// section 3.5, RFC 5128 section 3.4). Both peers dial each other at about the same time,
// each from the port that it listens on. Each has told the other the address that its
// NAT maps that port to. Who punches, and when, the two agree on elsewhere. Accept does
// not return the connection, and it does not matter whose SYN was first. Punch heeds no
// PortUse and is never hedged.
//
// Every SYN leaves from the port of a listener of t. If listeners on several ports fit
// raddr, Punch uses the first. It repeats a dial that is refused, reset or unreachable,
// because the other NAT answers so before the other peer has sent: ten times at once,
// then after 25 to 75 ms. It sends at most 20 SYNs in the first second, 5 in any later
// second and 100 in all. All punches of t together send 100 at once and 50 a second
// after that; 48 run at one time. The kernel's own repeats of a SYN count. A SYN that
// nothing answers stays in flight until ctx ends, so give ctx a deadline; 5 to 10 s is
// usual.
//
// If the peer's SYN came first, its connection may arrive at a listener of t while Punch
// runs. A connection from exactly raddr is then the result, Accept does not return it,
// and its Direction is Accepted. On the port that Punch dials from nobody need call
// Accept for that: Punch looks into the accept queue itself. It keeps up to 128
// connections of others for each socket, which the next Accept returns. Under Shared the
// kernel may hand the peer's connection to another process or Transport; Punch then
// fails with ErrTupleInUse. It does so too if Accept returned the connection before
// Punch began.
//
// A pending close of t that holds the 4-tuple gives it up as for a dial, see Conn.Close.
//
// Errors, by errors.Is: ErrNoReuse without a listener to punch from, or once it is
// closed; ErrTupleInUse if a connection with raddr exists (found out within 2 s) or t
// punches there already; ErrPunchLimit; ErrWrongProto; context.Canceled and
// context.DeadlineExceeded, joined with what the last dial returned; net.ErrClosed after
// Shutdown, which ends the punches under way. All but ErrWrongProto are a *net.OpError
// with Op "punch".
func (t *Transport) Punch(ctx context.Context, raddr ma.Multiaddr) (*Conn, error) {
	c, err := t.punch(ctx, raddr)
	if err != nil {
		t.counters.punchesFailed.Add(1)
		return nil, err
	}
	t.counters.punched.Add(1)
	c.punched = true
	return c, nil
}

func (t *Transport) punch(ctx context.Context, raddr ma.Multiaddr) (*Conn, error) {
	to, err := parseMultiaddr(raddr)
	if err == nil && to.host != "" {
		err = fmt.Errorf("%w: a punch needs an IP address, not %q", ErrWrongProto, raddr.String())
	}
	if err != nil {
		return nil, err
	}
	p, err := t.newPunch(ctx, to.addr)
	if err != nil {
		return nil, punchError(netip.AddrPort{}, to.addr, err)
	}
	ctx, p.expected.stop = context.WithCancel(ctx)
	defer p.expected.stop()
	if err := t.punches.begin(p.expected); err != nil {
		return nil, p.fail(err)
	}
	c, err := p.run(ctx)
	return p.end(c, err)
}

func punchError(laddr, raddr netip.AddrPort, err error) error {
	return opError("punch", netaddr.Network(raddr.Addr()), laddr, raddr, err)
}

// A punch is one simultaneous open while it runs.
type punch struct {
	attempt
	laddrs   []netip.AddrPort // the first is the one in use
	expected *expectation     // in the table of all punches
	pace     punchpace.Pace
	takenAt  time.Time // when the 4-tuple was first found taken; zero if it is not
	last     error     // of the last dial
}

// newPunch finds the local addresses to punch from.
func (t *Transport) newPunch(ctx context.Context, raddr netip.AddrPort) (*punch, error) {
	now := t.listening()
	if now.shut {
		return nil, errShutdown
	}
	raddr = dialable(raddr)
	p := &punch{
		attempt:  attempt{t: t, raddr: raddr, listeners: now.addrs, few: now.sorted.few(raddr, 0), use: RequireReuse},
		expected: &expectation{raddr: raddr, peer: make(chan *Conn, 1)},
	}
	err := p.choose(ctx)
	if err == nil {
		p.laddrs, err = p.localAddrs(ctx, nil, true)
	}
	if err == nil {
		err = p.noSource // repeating what no route leads to would take until ctx ends
	}
	if err != nil {
		return nil, err
	}
	if len(p.laddrs) == 0 {
		return nil, ErrNoReuse
	}
	return p, nil
}

// run dials until there is a connection, an error that no further dial can mend,
// or the end of ctx.
func (p *punch) run(ctx context.Context) (*Conn, error) {
	for {
		if err := p.awaitBudget(ctx); err != nil {
			return nil, err
		}
		tcp, err := p.dial(ctx)
		if err == nil {
			c := p.finish(tcp)
			p.t.counters.count(c)
			return c, nil
		}
		p.last = err
		wait, err := p.next(ctx)
		if err != nil {
			return nil, err
		}
		if err := p.pause(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// awaitBudget waits until the budget of all punches has a SYN left, and takes it.
func (p *punch) awaitBudget(ctx context.Context) error {
	for {
		if err := p.checkListening(); err != nil {
			return err
		}
		if p.t.punches.allow(p.expected) {
			return nil
		}
		p.last = ErrPunchLimit
		if err := p.pause(ctx, punchpace.Pause(rand.Float64())); err != nil {
			return err
		}
	}
}

// checkListening returns an error if t no longer listens on the port in use.
func (p *punch) checkListening() error {
	now, port := p.t.listening(), p.laddrs[0].Port()
	switch {
	case now.shut:
		return p.fail(errShutdown)
	case slices.ContainsFunc(now.addrs, func(l listenAddr) bool { return l.Port() == port }):
		return nil
	}
	return p.fail(failures(ErrNoReuse, p.last))
}

// dial sends one SYN and waits for the result, but no longer than until the kernel's
// repeats would pass the limit. After a local fault nothing was sent, and nothing is
// counted.
func (p *punch) dial(ctx context.Context) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.pace.Patience())
	defer cancel()
	began := time.Now()
	tcp, err := p.t.connect(ctx, p.laddrs[0], p.raddr)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		<-ctx.Done() // package net's own timer may fire before ctx ends, which next asks
	}
	if localFault(err) != NoCause {
		p.t.punches.settle(p.expected, 0)
		return nil, err
	}
	p.takenAt = time.Time{}
	p.pace.Dialed(began)
	syns := 1 + p.pace.Failed(time.Now())
	p.t.punches.settle(p.expected, syns)
	p.t.counters.punchSYNs.Add(uint64(syns))
	return tcp, err
}

// next returns how long to wait after a failed dial before the next one, or an error
// if there must be none.
func (p *punch) next(ctx context.Context) (time.Duration, error) {
	switch cause := localFault(p.last); {
	case ctx.Err() != nil:
		return 0, p.ctxError(ctx)
	case cause == TupleInUse:
		return p.awaitPeer(ctx)
	case cause != NoCause:
		return 0, p.nextAddr()
	case !errno.IsRejected(p.last) && !errors.Is(p.last, context.DeadlineExceeded):
		return 0, p.fail(p.last)
	}
	wait, more := p.pace.Next(time.Now(), rand.Float64())
	if !more {
		return 0, p.fail(failures(ErrPunchLimit, p.last))
	}
	return wait, nil
}

// ctxError returns the error of a punch whose ctx has ended. Shutdown ends ctx too.
func (p *punch) ctxError(ctx context.Context) error {
	if p.t.registry.load().shut {
		return p.fail(errShutdown)
	}
	return p.fail(failures(ctx.Err(), p.last))
}

// nextAddr goes on to the next local address, because the one in use cannot be
// bound.
func (p *punch) nextAddr() error {
	if len(p.laddrs) == 1 {
		return p.fail(failures(ErrNoReuse, p.last))
	}
	p.laddrs = p.laddrs[1:]
	return nil
}

// awaitPeer handles a taken 4-tuple. The peer's connection may hold it, and is in an
// accept queue or about to be; or a pending close of ours holds it.
func (p *punch) awaitPeer(ctx context.Context) (time.Duration, error) {
	now := time.Now()
	if p.takenAt.IsZero() {
		p.takenAt = now
		if p.lacksSource(ctx, p.laddrs[0], p.last) {
			return 0, p.fail(p.last)
		}
	}
	if now.Sub(p.takenAt) > tupleGrace {
		return 0, p.fail(failures(ErrTupleInUse, p.last))
	}
	if local, may := p.closeMayHold(ctx, p.laddrs[0]); may {
		p.t.flushes.TryRelease(local, p.raddr) // not AwaitRelease: tuplePause is the wait
	}
	p.t.drain(p.laddrs[0].Port())
	return tuplePause, nil
}

// pause waits, and returns an error if the punch ended meanwhile.
func (p *punch) pause(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return p.ctxError(ctx)
	}
}

// end takes p out of the table and returns the result. If the peer's connection
// arrived at a listener that is the result, since nobody else will get it. Otherwise
// it is what run returned.
func (p *punch) end(c *Conn, err error) (*Conn, error) {
	p.t.punches.end(p.expected)
	select {
	case peer := <-p.expected.peer:
		if c == nil {
			return peer, nil
		}
		_ = c.Abort() // both connected, on two ports of ours; one is enough
		return peer, nil
	default:
		return c, err
	}
}

func (p *punch) fail(err error) error { return punchError(p.laddrs[0], p.raddr, err) }
