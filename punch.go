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
	"sync"
	"sync/atomic"
	"time"

	ma "github.com/multiformats/go-multiaddr"
)

// ErrPunchLimit says that a punch has sent as many SYNs as one may, or that as
// many punches are under way as a Transport runs at one time, or that all of them
// together had spent their SYNs when the punch ended.
var ErrPunchLimit = errors.New("reuseport: limit of punches reached")

const (
	// tupleGrace is how long a taken 4-tuple may turn out to be the peer's own
	// connection on its way through the accept queue: a round trip, or a second
	// more if the kernel has to repeat its SYN-ACK.
	tupleGrace = 2 * time.Second

	// tuplePause is the time between two looks at a taken 4-tuple. They send
	// nothing.
	tuplePause = 10 * time.Millisecond
)

// Punch connects to raddr, /ip4 or /ip6 with /tcp, by TCP simultaneous open (RFC
// 9293 section 3.5, RFC 5128 section 3.4): both peers dial each other at about
// the same time, each from the port that it listens on, whose mapping at its NAT
// the other one was told. Who punches, and when, the two agree on elsewhere.
// Nobody's Accept returns the connection; whose SYN was first does not matter.
// Punch heeds no PortUse and is never hedged.
//
// Every SYN leaves from the port of a listener of t, never from another one. With
// listeners on several ports it is the first that fits raddr. A dial that is
// refused, reset or unreachable (the other NAT answers before the other peer has
// sent) is repeated: ten times at once, then after 25 to 75 ms, with at most 20
// SYNs in the first second, 5 in any second after it and 100 in a punch. All
// punches of t together send 100 at once and 50 a second after; 48 run at one
// time. The kernel's own repeats of a SYN count. A SYN that nothing answers stays
// in flight until ctx ends; give ctx a deadline, 5 to 10 s is usual.
//
// If the peer's SYN came first and its connection from exactly raddr arrives at
// any listener of t while Punch runs, that connection is the result and Accept
// does not return it; (*Conn).Direction is then Accepted. On the port that it
// punches from nobody need call Accept for that: Punch looks into the accept queue
// itself, and what it finds of others, at most 128 for each socket, the next Accept
// returns. Under Shared the kernel
// may hand the peer's connection to another process or Transport; Punch then
// fails with ErrTupleInUse. One that Accept has returned before Punch began is a
// taken 4-tuple too.
//
// A pending close of t that holds the 4-tuple gives it up as for a dial, see Close.
//
// Errors, by errors.Is: ErrNoReuse without a listener to punch from, or once it is
// closed; ErrTupleInUse if a connection with raddr exists (found out within 2 s) or t
// punches there already; ErrPunchLimit; ErrWrongProto; context.Canceled and
// context.DeadlineExceeded, joined with what the last dial returned; net.ErrClosed
// after Shutdown, which ends the punches under way. But for ErrWrongProto it is a
// *net.OpError with Op "punch".
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
	g, err := parseMultiaddr(raddr)
	if err == nil && g.host != "" {
		err = fmt.Errorf("%w: a punch needs an IP address, not %q", ErrWrongProto, raddr.String())
	}
	if err != nil {
		return nil, err
	}
	p, err := t.newPunch(ctx, g.addr)
	if err != nil {
		return nil, punchError(netip.AddrPort{}, g.addr, err)
	}
	ctx, p.stop = context.WithCancel(ctx)
	defer p.stop()
	if err := t.punches.begin(p); err != nil {
		return nil, p.fail(err)
	}
	c, err := p.run(ctx)
	return p.end(c, err)
}

func punchError(laddr, raddr netip.AddrPort, err error) error {
	e := &net.OpError{Op: "punch", Net: network(raddr.Addr()), Addr: net.TCPAddrFromAddrPort(raddr), Err: err}
	if laddr.IsValid() {
		e.Source = net.TCPAddrFromAddrPort(laddr)
	}
	return e
}

// A punch is one simultaneous open while it runs.
type punch struct {
	a      attempt
	laddrs []netip.AddrPort // the first is the one in use
	stop   context.CancelFunc

	pace  punchPace
	inUse time.Time // since when the 4-tuple is taken; zero if it is not
	last  error     // of the last dial

	peer chan *Conn // holds the peer's connection if it came to a listener

	// Guarded by punches.mu:
	taken   bool
	dialing time.Time // since when a dial is in flight; zero if none is
	charged int       // SYNs of that dial that the budget has paid
}

// newPunch finds the local addresses to punch from.
func (t *Transport) newPunch(ctx context.Context, raddr netip.AddrPort) (*punch, error) {
	now := t.registry.load()
	if now.shut {
		return nil, errShutdown
	}
	raddr = dialable(raddr)
	p := &punch{
		a:    attempt{t: t, raddr: raddr, listeners: now.addrs, use: RequireReuse},
		peer: make(chan *Conn, 1),
	}
	source, err := p.a.source(ctx, needsSource(now.addrs, raddr, true))
	if err != nil {
		return nil, err
	}
	p.laddrs = selectAddrs(nil, now.addrs, raddr, source, 0)
	if len(p.laddrs) == 0 {
		return nil, ErrNoReuse
	}
	return p, nil
}

// run dials until there is a connection, an error that no further dial can mend,
// or the end of ctx.
func (p *punch) run(ctx context.Context) (*Conn, error) {
	for {
		if err := p.mayDial(ctx); err != nil {
			return nil, err
		}
		tcp, err := p.dial(ctx)
		if err == nil {
			return p.a.finish(tcp)
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

// mayDial waits until the budget allows a SYN.
func (p *punch) mayDial(ctx context.Context) error {
	for {
		if err := p.listens(); err != nil {
			return err
		}
		if p.a.t.punches.allow(p) {
			return nil
		}
		p.last = ErrPunchLimit
		if err := p.pause(ctx, punchPause(rand.Float64())); err != nil {
			return err
		}
	}
}

// listens returns an error if t does not listen any more on the port in use.
func (p *punch) listens() error {
	now, port := p.a.t.registry.load(), p.laddrs[0].Port()
	switch {
	case now.shut:
		return p.fail(errShutdown)
	case slices.ContainsFunc(now.addrs, func(l listenAddr) bool { return l.Port() == port }):
		return nil
	}
	return p.fail(errors.Join(ErrNoReuse, p.last))
}

// dial sends one SYN and waits for what it brings, at most until the kernel's
// repeats would pass the limit. A local fault has sent nothing and is not counted.
func (p *punch) dial(ctx context.Context) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.pace.patience())
	defer cancel()
	began := time.Now()
	tcp, err := p.a.t.connect(ctx, p.laddrs[0], p.a.raddr)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		<-ctx.Done() // package net has a timer of its own, which may be first
	}
	if localFault(err) != NoCause {
		p.a.t.punches.sent(p, 0)
		return nil, err
	}
	p.inUse = time.Time{}
	p.pace.dialed(began)
	syns := 1 + p.pace.ended(time.Now())
	p.a.t.punches.sent(p, syns)
	p.a.t.counters.punchSYNs.Add(uint64(syns))
	return tcp, err
}

// next decides after a failed dial how long to wait before the next one, or that
// there is none.
func (p *punch) next(ctx context.Context) (time.Duration, error) {
	switch cause := localFault(p.last); {
	case ctx.Err() != nil:
		return 0, p.ended(ctx)
	case cause == TupleInUse:
		return p.awaitPeer(ctx)
	case cause != NoCause:
		return 0, p.nextAddr()
	case !isRejected(p.last) && !errors.Is(p.last, context.DeadlineExceeded):
		return 0, p.fail(p.last)
	}
	wait, more := p.pace.next(time.Now(), rand.Float64())
	if !more {
		return 0, p.fail(errors.Join(ErrPunchLimit, p.last))
	}
	return wait, nil
}

// ended is the error of a punch whose ctx has ended: Shutdown ends it, too.
func (p *punch) ended(ctx context.Context) error {
	if p.a.t.registry.load().shut {
		return p.fail(errShutdown)
	}
	return p.fail(errors.Join(ctx.Err(), p.last))
}

// nextAddr goes on to another local address that fits, since the one in use
// cannot be bound.
func (p *punch) nextAddr() error {
	if len(p.laddrs) == 1 {
		return p.fail(errors.Join(ErrNoReuse, p.last))
	}
	p.laddrs = p.laddrs[1:]
	return nil
}

// awaitPeer handles a taken 4-tuple: it may be the peer's connection, which then
// waits in an accept queue, or will in a moment, or a pending close of ours.
func (p *punch) awaitPeer(ctx context.Context) (time.Duration, error) {
	now := time.Now()
	if p.inUse.IsZero() {
		p.inUse = now
		if !p.a.hasSource(ctx, p.laddrs[0], p.last) {
			return 0, p.fail(p.last)
		}
	}
	if now.Sub(p.inUse) > tupleGrace {
		return 0, p.fail(errors.Join(ErrTupleInUse, p.last))
	}
	if path, ok := p.a.pathOfClose(ctx, p.laddrs[0]); ok {
		p.a.t.flushes.tryFree(path, p.a.raddr) // free would wait, as tuplePause does
	}
	p.a.t.drain(p.laddrs[0].Port())
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
		return p.ended(ctx)
	}
}

// end takes p out of the table and returns the result: the peer's connection if
// it came to a listener, for nobody else will get it, or else what run returned.
func (p *punch) end(c *Conn, err error) (*Conn, error) {
	p.a.t.punches.end(p)
	select {
	case peer := <-p.peer:
		if c == nil {
			return peer, nil
		}
		_ = c.Abort() // the peer's came at the same time on another port of ours; c is open and nobody else's
		return peer, nil
	default:
		return c, err
	}
}

func (p *punch) fail(err error) error { return punchError(p.laddrs[0], p.a.raddr, err) }

// punches are the punches under way and the budget that they share.
type punches struct {
	running atomic.Int32 // lets Accept pass by without the lock

	mu     sync.Mutex
	to     map[netip.AddrPort]*punch
	budget tokenBucket
}

func (ps *punches) begin(p *punch) error {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.to[p.a.raddr] != nil {
		return ErrTupleInUse
	}
	if len(ps.to) >= maxPunches {
		return ErrPunchLimit
	}
	if ps.to == nil {
		ps.to = make(map[netip.AddrPort]*punch)
	}
	ps.to[p.a.raddr] = p
	ps.running.Add(1)
	return nil
}

func (ps *punches) end(p *punch) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(ps.to, p.a.raddr)
	ps.running.Add(-1)
}

// allow takes the SYN of p's next dial from the budget, and with it the first repeat
// of the kernel, a second ahead of it.
func (ps *punches) allow(p *punch) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	now := time.Now()
	ps.budget.burst, ps.budget.every = punchBurst, punchEvery
	for _, other := range ps.to {
		ps.charge(other, now)
	}
	if !ps.budget.take(now) {
		return false
	}
	p.dialing, p.charged = now, 1
	ps.charge(p, now)
	return true
}

// charge pays for the repeats of a dial in flight, each before it is due, so that
// others cannot spend what it needs. The caller holds mu.
func (ps *punches) charge(p *punch, now time.Time) {
	if p.dialing.IsZero() {
		return
	}
	due := 2 + int(now.Sub(p.dialing)/synRetransmit)
	ps.budget.owe(due-p.charged, now)
	p.charged = due
}

// sent settles the account of a dial that has ended and sent n SYNs.
func (ps *punches) sent(p *punch, n int) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.budget.owe(n-p.charged, time.Now())
	p.dialing, p.charged = time.Time{}, 0
}

// shut ends all that are under way.
func (ps *punches) shut() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, p := range ps.to {
		p.stop()
	}
}

// take gives an accepted connection to the punch that aims at its peer. It
// reports false if there is none or it has one already.
func (ps *punches) take(c *Conn) bool {
	if ps.running.Load() == 0 {
		return false
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.to[netAddr(c.RemoteAddr())]
	if p == nil || p.taken {
		return false
	}
	p.taken = true
	p.peer <- c
	p.stop()
	return true
}
