package reuseport

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/reusetransport/reuseport/internal/errno"
	"github.com/reusetransport/reuseport/internal/netaddr"
	"github.com/reusetransport/reuseport/internal/netns"
	"github.com/reusetransport/reuseport/internal/pathhealth"
)

// A dialFunc makes one dial.
type dialFunc func(ctx context.Context) (*net.TCPConn, error)

// dialByHealth dials raddr from the listening port of laddr as the health of the path
// advises: from that port alone, with a hedge from an ephemeral port behind it, or not at
// all (errPathSilent). It reports whether the hedge won.
func (t *Transport) dialByHealth(ctx context.Context, laddr, raddr netip.AddrPort, fromListener, fromNewPort dialFunc) (tcp *net.TCPConn, hedgeWon bool, err error) {
	plan, err := t.planDial(ctx, laddr, raddr)
	if err != nil {
		return nil, false, err
	}
	switch plan.Way {
	case pathhealth.FromNewPort:
		return nil, false, opError("dial", netaddr.Network(raddr.Addr()), laddr, raddr, errPathSilent)
	case pathhealth.FromListener:
		tcp, err = fromListener(ctx)
		return tcp, false, err
	}
	place := netns.Here()
	tcp, hedgeWon, err = hedged(ctx, plan.HeadStart, fromListener, func(ctx context.Context) (*net.TCPConn, error) {
		if !place.IsShared() {
			return nil, errNotHedged // it would leave from another network namespace
		}
		if err := t.awaitHedge(ctx, laddr, raddr); err != nil {
			return nil, err
		}
		return fromNewPort(ctx)
	})
	if hedgeWon {
		t.recordHedgeWin(tcp, laddr, raddr)
	}
	return tcp, hedgeWon, err
}

// planDial asks pathhealth which way the dial leaves. It looks up the source address only if
// a path from this port has shown a fault.
func (t *Transport) planDial(ctx context.Context, laddr, raddr netip.AddrPort) (pathhealth.Plan, error) {
	if !t.health.NeedsSource(laddr) {
		return pathhealth.Plan{Way: pathhealth.Hedged, HeadStart: t.hedgeDelay()}, nil
	}
	source, err := t.withSource(ctx, laddr, raddr)
	if err != nil {
		return pathhealth.Plan{}, err
	}
	return t.health.BeginDial(source, raddr.Addr(), t.hedgeDelay()), nil
}

// awaitHedge waits until a hedge may start, and counts it. While the budget is spent it asks
// again every half HedgeDelay. It returns errNotHedged if the path was proven meanwhile or
// ctx has ended; the first dial has the error of ctx.
func (t *Transport) awaitHedge(ctx context.Context, laddr, raddr netip.AddrPort) error {
	source, err := t.withSource(ctx, laddr, raddr)
	if err != nil {
		return errNotHedged
	}
	for {
		switch t.health.BeginHedge(source, raddr.Addr()) {
		case pathhealth.HedgeNow:
			t.counters.hedges.Add(1)
			return nil
		case pathhealth.HedgeNever:
			return errNotHedged
		}
		select {
		case <-time.After(max(t.hedgeDelay()/2, time.Millisecond)):
		case <-ctx.Done():
			return errNotHedged
		}
	}
}

// recordHedgeWin records that the hedge was answered and the SYN from laddr's port was not.
// tcp is the hedge's connection.
func (t *Transport) recordHedgeWin(tcp *net.TCPConn, laddr, raddr netip.AddrPort) {
	t.counters.hedgeWins.Add(1)
	source := laddr
	if laddr.Addr().IsUnspecified() {
		source = netip.AddrPortFrom(netaddr.From(tcp.LocalAddr()).Addr(), laddr.Port())
	}
	if t.health.RecordHedgeWin(source, raddr.Addr()) {
		t.log().Warn("path blocked: dials leave from ephemeral ports", "source", source, "raddr", raddr)
	}
}

// recordHandshake records a connection that left from a listening port.
func (t *Transport) recordHandshake(local, remote netip.AddrPort) {
	if netaddr.IsGlobal(remote.Addr()) && t.health.RecordHandshake(local, remote.Addr()) {
		t.log().Info("path recovered: dials leave from the listening port again", "source", local, "raddr", remote)
	}
}

// hedged dials by first and, if that is unanswered for headStart, by second too. Whichever
// connects first is the result, and the other one is closed. If both have connected, the
// result is that of first. A second that returns errNotHedged is ignored.
func hedged(ctx context.Context, headStart time.Duration, first, second dialFunc) (tcp *net.TCPConn, bySecond bool, err error) {
	firstCtx, stopFirst := context.WithCancel(ctx)
	defer stopFirst()
	h := &hedge{ctx: ctx, second: second, stopFirst: stopFirst}
	timer := time.AfterFunc(headStart, h.run)
	defer timer.Stop()
	tcp, err = first(firstCtx)
	return h.settle(tcp, err)
}

// A hedge is a second dial that runs beside the first.
type hedge struct {
	ctx       context.Context // of the whole dial
	second    dialFunc
	stopFirst context.CancelFunc

	mu   sync.Mutex
	stop context.CancelFunc // ends second; nil before it starts
	over bool               // the dial has its result; a connection of second is closed
	tcp  *net.TCPConn
	err  error
}

// run makes the second dial, on a goroutine of its own.
func (h *hedge) run() {
	ctx, stop := context.WithCancel(h.ctx)
	defer stop()
	if h.begin(stop) {
		h.done(h.second(ctx))
	}
}

// begin lets settle end the second dial. It reports whether that dial may start, which is not
// so once the first has brought the result.
func (h *hedge) begin(stop context.CancelFunc) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stop = stop
	return !h.over
}

// done takes the result of the second dial. A connection ends the first dial. So does a
// refusal, because it is the peer's answer. After any other error the first dial goes on.
func (h *hedge) done(tcp *net.TCPConn, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		closeLoser(tcp)
		return
	}
	if !errors.Is(err, errNotHedged) {
		h.tcp, h.err = tcp, err
	}
	if tcp != nil || errno.IsRefused(err) {
		h.stopFirst()
	}
}

// settle ends the second dial and chooses between the two.
func (h *hedge) settle(tcp *net.TCPConn, err error) (_ *net.TCPConn, bySecond bool, _ error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	if h.stop != nil {
		h.stop()
	}
	switch {
	case tcp != nil:
		closeLoser(h.tcp)
		return tcp, false, nil
	case h.tcp != nil:
		return h.tcp, true, nil
	case h.err == nil:
		return nil, false, err
	case errno.IsRefused(h.err):
		return nil, false, h.err
	}
	return nil, false, failures(err, h.err)
}

// closeLoser closes a connection that is no longer wanted, with a FIN: its port is an
// ephemeral one, so TIME_WAIT is in nobody's way.
func closeLoser(tcp *net.TCPConn) {
	if tcp != nil {
		_ = tcp.Close() // nothing was written, so nothing can be lost
	}
}
