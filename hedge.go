package reuseport

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// defaultHedgeDelay is what a zero Transport.HedgeDelay stands for.
const defaultHedgeDelay = time.Second

// hedgeDelay is HedgeDelay with its default.
func (t *Transport) hedgeDelay() time.Duration {
	return cmp.Or(t.HedgeDelay, defaultHedgeDelay)
}

// fromShared dials from a listening port as the health of its path advises:
// alone, with a hedge behind it, or not at all (errPathBlocked).
func (a *attempt) fromShared(ctx context.Context, laddr netip.AddrPort) (*net.TCPConn, error) {
	if a.use == RequireReuse || a.t.HedgeDelay < 0 || !isGlobal(a.raddr.Addr()) {
		return a.t.connect(ctx, laddr, a.raddr)
	}
	advice, err := a.advice(ctx, laddr)
	if err != nil {
		return nil, err
	}
	switch advice.use {
	case useEphemeral:
		return nil, &net.OpError{Op: "dial", Net: network(a.raddr.Addr()), Source: net.TCPAddrFromAddrPort(laddr),
			Addr: net.TCPAddrFromAddrPort(a.raddr), Err: errPathBlocked}
	case useHedged:
		return a.hedged(ctx, laddr, advice.headStart)
	}
	return a.t.connect(ctx, laddr, a.raddr)
}

// advice asks the path's health. The source address is looked up only if a path
// of this port has shown a fault.
func (a *attempt) advice(ctx context.Context, laddr netip.AddrPort) (advice, error) {
	health := &a.t.health
	if !health.watched(laddr) {
		return advice{useHedged, a.t.hedgeDelay()}, nil
	}
	source, err := a.pathOf(ctx, laddr)
	if err != nil {
		return advice{}, err
	}
	return health.advise(source, a.raddr.Addr(), a.t.hedgeDelay()), nil
}

// pathOf is laddr with the source address that the kernel would choose.
func (a *attempt) pathOf(ctx context.Context, laddr netip.AddrPort) (netip.AddrPort, error) {
	if !laddr.Addr().IsUnspecified() {
		return laddr, nil
	}
	source, err := a.source(ctx, true)
	return netip.AddrPortFrom(source, laddr.Port()), err
}

// A hedge is the second dial of a dial: it starts when the SYN from the
// listening port has been unanswered for the head start, and leaves from an
// ephemeral port. The first to connect is the dial's result, the other one is
// closed.
type hedge struct {
	a          *attempt
	laddr      netip.AddrPort
	ctx        context.Context    // of the whole dial
	stopShared context.CancelFunc // ends the dial from the listening port
	path       netip.AddrPort     // laddr with its source address, once run knows it

	mu    sync.Mutex
	timer *time.Timer
	stop  context.CancelFunc // ends the hedge's own dial; nil before it starts
	over  bool               // the dial has its result; what the hedge brings is closed
	conn  *net.TCPConn
	err   error
}

// hedged dials from laddr with a hedge behind it.
func (a *attempt) hedged(ctx context.Context, laddr netip.AddrPort, headStart time.Duration) (*net.TCPConn, error) {
	shared, stop := context.WithCancel(ctx)
	defer stop()
	kept := *a // a itself stays on the stack, which spares the dials without a hedge
	h := &hedge{a: &kept, laddr: laddr, ctx: ctx, stopShared: stop}
	h.arm(headStart)
	c, err := a.t.connect(shared, laddr, a.raddr)
	c, err = h.settle(c, err)
	a.cause = kept.cause
	return c, err
}

// arm lets run start after d, unless the dial has its result.
func (h *hedge) arm(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.over {
		h.timer = time.AfterFunc(d, h.run)
	}
}

// run is the hedge, on a goroutine of its own. While the budget is spent it asks
// again, twice in a HedgeDelay.
func (h *hedge) run() {
	ctx, stop := context.WithCancel(h.ctx)
	defer stop()
	if !h.begin(stop) {
		return
	}
	t := h.a.t
	if err := h.findPath(ctx); err != nil {
		return // the dial is over
	}
	switch t.health.mayHedge(h.path, h.a.raddr.Addr()) {
	case hedgeNever:
		return
	case hedgeLater:
		h.arm(max(t.hedgeDelay()/2, time.Millisecond))
		return
	}
	t.counters.hedges.Add(1)
	h.done(t.connectNew(ctx, h.a.raddr))
}

// findPath looks up the source address once, however often the hedge has to ask.
func (h *hedge) findPath(ctx context.Context) (err error) {
	if !h.path.IsValid() {
		h.path, err = h.a.pathOf(ctx, h.laddr)
	}
	return err
}

// begin tells settle how to end the hedge, unless the dial has its result.
func (h *hedge) begin(stop context.CancelFunc) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stop = stop
	return !h.over
}

// done hands in what the hedge brought. A connection ends the other dial, and so
// does a refusal: it is the peer's answer. Any other error leaves the other dial
// to go on.
func (h *hedge) done(c *net.TCPConn, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		closeLoser(c)
		return
	}
	h.conn, h.err = c, err
	if c != nil || isRefused(err) {
		h.stopShared()
	}
}

// settle ends the hedge and decides between the two. The listening port is
// preferred if both are connected.
func (h *hedge) settle(c *net.TCPConn, err error) (*net.TCPConn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	h.timer.Stop()
	if h.stop != nil {
		h.stop()
	}
	switch {
	case c != nil:
		closeLoser(h.conn)
		return c, nil
	case h.conn != nil:
		h.won()
		return h.conn, nil
	case h.err == nil:
		return nil, err
	case isRefused(h.err):
		return nil, h.err
	}
	return nil, errors.Join(err, h.err)
}

// won books that the hedge is the result.
func (h *hedge) won() {
	h.a.cause = HedgeWon
	h.a.t.counters.hedgeWins.Add(1)
	source := netip.AddrPortFrom(netAddr(h.conn.LocalAddr()).Addr(), h.laddr.Port())
	if h.a.t.health.hedgeWon(source, h.a.raddr.Addr()) {
		h.a.t.log().Warn("path blocked: dials leave from ephemeral ports", "source", source, "raddr", h.a.raddr)
	}
}

// closeLoser closes a connection that nobody asked for any more, with a FIN: its
// port is an ephemeral one, so that TIME_WAIT is in nobody's way.
func closeLoser(c *net.TCPConn) {
	if c != nil {
		_ = c.Close() // nothing was written, so nothing can be lost
	}
}

// handshaken books a connection that left from a listening port.
func (t *Transport) handshaken(c *Conn) {
	local, remote := netAddr(c.LocalAddr()), netAddr(c.RemoteAddr())
	if isGlobal(remote.Addr()) && t.health.handshaken(local, remote.Addr()) {
		t.log().Info("path recovered: dials leave from the listening port again", "source", local, "raddr", remote)
	}
}

// health is pathHealth with a lock and a clock. While all is well, of the dials that
// leave from one source one in freshFor takes the lock.
type health struct {
	mu    sync.Mutex
	paths pathHealth

	faulty atomic.Bool                                  // some path is blocked or has silent hosts
	fresh  atomic.Pointer[map[netip.AddrPort]time.Time] // when each source's last handshake was booked; never changed
}

// freshFor is how long a booked handshake stands for the next ones of its path; so
// much older than it was may a handshake seem.
const freshFor = time.Second

// isFresh says whether a handshake from source need not be booked.
func (h *health) isFresh(source netip.AddrPort, now time.Time) bool {
	fresh := h.fresh.Load()
	return fresh != nil && now.Sub((*fresh)[source]) < freshFor && !h.faulty.Load()
}

// freshen publishes that a handshake from source was booked. The caller holds mu.
func (h *health) freshen(source netip.AddrPort, now time.Time) {
	next := map[netip.AddrPort]time.Time{source: now}
	if fresh := h.fresh.Load(); fresh != nil {
		for s, at := range *fresh {
			if s != source && now.Sub(at) < freshFor {
				next[s] = at
			}
		}
	}
	h.fresh.Store(&next)
}

// watched says whether a dial from laddr has to know its source address first.
func (h *health) watched(laddr netip.AddrPort) bool {
	if !h.faulty.Load() {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.paths.watched(laddr.Port(), laddr.Addr())
}

func (h *health) advise(source netip.AddrPort, raddr netip.Addr, hedgeDelay time.Duration) advice {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.paths.advise(source, raddr, hedgeDelay, time.Now())
}

func (h *health) mayHedge(source netip.AddrPort, raddr netip.Addr) hedgeAnswer {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.paths.mayHedge(source, raddr, time.Now())
}

func (h *health) handshaken(source netip.AddrPort, raddr netip.Addr) (recovered bool) {
	now := time.Now()
	if h.isFresh(source, now) {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	recovered = h.paths.handshaken(source, raddr, now)
	h.freshen(source, now)
	h.faulty.Store(h.paths.faulty())
	return recovered
}

func (h *health) hedgeWon(source netip.AddrPort, raddr netip.Addr) (blocked bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	blocked = h.paths.hedgeWon(source, raddr, time.Now())
	h.faulty.Store(h.paths.faulty())
	return blocked
}

// list returns what is known of all paths, ordered by source.
func (h *health) list() []Path {
	h.mu.Lock()
	defer h.mu.Unlock()
	paths := h.paths.list(time.Now())
	slices.SortFunc(paths, func(a, b Path) int { return a.Source.Compare(b.Source) })
	return paths
}
