package reuseport

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/reusetransport/reuseport/internal/errno"
	"github.com/reusetransport/reuseport/internal/netaddr"
	"github.com/reusetransport/reuseport/internal/netns"
	"github.com/reusetransport/reuseport/internal/pathhealth"
	"github.com/reusetransport/reuseport/internal/sockopt"
)

// This file dials as internal/pathhealth advises, and tells it what came of the dial.

// dialers are the two dials that dialByHealth chooses from.
type dialers interface {
	// fromListener dials from the listening port, with sockopt.LimitSYNs if bounded.
	fromListener(ctx context.Context, bounded bool) (*net.TCPConn, error)

	// isConnected says what the system knows of fromListener's socket while that dials.
	isConnected() bool

	fromNewPort(ctx context.Context) (*net.TCPConn, error)
}

// A healthDial is a dial of a hedgeable address while it runs.
type healthDial struct {
	dialers
	t            *Transport
	laddr, raddr netip.AddrPort
	began        time.Time
	place        netns.Place
	plan         pathhealth.Plan

	hedgedAt atomic.Int64 // when the hedge started, after began; zero if it did not
	early    atomic.Bool  // the hedge took a share of the budget
}

// dialByHealth dials raddr from the listening port of laddr as what is known of path, host and
// network advises: with a hedge from an ephemeral port behind it, or not at all
// (errPathSilent). It reports whether the ephemeral port was answered.
func (t *Transport) dialByHealth(ctx context.Context, laddr, raddr netip.AddrPort, by dialers) (tcp *net.TCPConn, hedgeWon bool, err error) {
	d := &healthDial{dialers: by, t: t, laddr: laddr, raddr: raddr, began: time.Now(), place: netns.Here()}
	if d.plan, err = d.choose(ctx); err != nil {
		return nil, false, err
	}
	if d.plan.Way == pathhealth.FromNewPort {
		return nil, false, d.opError(fmt.Errorf("%w: %v", errPathSilent, d.plan.Why))
	}
	tcp, hedgeWon, err = hedged(ctx, d.plan.HeadStart, d)
	switch {
	case hedgeWon:
		d.recordWin(ctx, tcp)
	case err != nil && d.hedgedAt.Load() == 0:
		tcp, hedgeWon, err = d.retry(ctx, err)
	}
	if d.endsEarly() && isStarved(err) {
		tcp, err = d.fromListener(ctx, false)
	}
	if err != nil {
		d.recordFailure(ctx, err)
		err = d.fillSource(err)
	}
	return tcp, hedgeWon, err
}

// choose asks pathhealth which way the dial leaves. It looks up the source address only if
// something speaks against a path, a host or a network.
func (d *healthDial) choose(ctx context.Context) (pathhealth.Plan, error) {
	in := pathhealth.Timing{HedgeDelay: d.t.hedgeDelay(), Left: timeLeft(ctx), BoundedFor: sockopt.BoundedFor}
	if !d.t.health.NeedsSource() {
		return in.Fresh(), nil
	}
	to, err := d.target(ctx)
	if err != nil {
		return pathhealth.Plan{}, err
	}
	return d.t.health.BeginDial(to, in), nil
}

// timeLeft returns how long it is until ctx ends by itself.
func timeLeft(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return time.Until(deadline)
	}
	return math.MaxInt64
}

// target returns what the evidence is about. The source is the one that the kernel would
// choose where laddr is a wildcard.
func (d *healthDial) target(ctx context.Context) (pathhealth.Target, error) {
	source, err := d.t.withSource(ctx, d.laddr, d.raddr)
	return d.t.target(source, d.raddr), err
}

func (t *Transport) target(source, raddr netip.AddrPort) pathhealth.Target {
	host := raddr.Addr()
	return pathhealth.Target{Source: source, Host: host, Distance: pathhealth.DistanceOf(host, t.nearby.Contains(host))}
}

// first dials from the listening port.
func (d *healthDial) first(ctx context.Context) (*net.TCPConn, error) {
	return d.fromListener(ctx, d.endsEarly())
}

// endsEarly reports whether the SYNs of the first dial are bounded.
func (d *healthDial) endsEarly() bool { return d.plan.HandOver > 0 }

// second is the hedge, once it may start. It returns errNotHedged if it may not, or would leave
// from another network namespace.
func (d *healthDial) second(ctx context.Context) (*net.TCPConn, error) {
	if !d.place.IsShared() {
		return nil, errNotHedged
	}
	if err := d.await(ctx); err != nil {
		return nil, err
	}
	if d.isConnected() { // the process was stopped, and has not yet seen it
		return nil, errNotHedged
	}
	d.hedgedAt.Store(int64(time.Since(d.began)))
	return d.fromNewPort(ctx)
}

// await waits until the hedge may start, and counts it. While the budget is spent it asks
// again, unless the hand-over comes, which needs no budget. It returns errNotHedged if the path
// is proven or ctx has ended; the first dial has the error of ctx.
func (d *healthDial) await(ctx context.Context) error {
	to, err := d.target(ctx)
	if err != nil {
		return errNotHedged
	}
	for {
		answer := d.t.health.BeginHedge(to)
		switch {
		case answer == pathhealth.HedgeNow:
			d.early.Store(true)
			d.t.counters.hedges.Add(1)
			return nil
		case d.plan.HandOver > 0:
			return d.awaitHandOver(ctx)
		case answer == pathhealth.HedgeNever:
			return errNotHedged
		}
		pause := max(min(d.t.hedgeDelay()/2, timeLeft(ctx)/8), time.Millisecond)
		if !sleep(ctx, pause) {
			return errNotHedged
		}
	}
}

// awaitHandOver waits until the hedge may send a SYN in place of the first dial.
func (d *healthDial) awaitHandOver(ctx context.Context) error {
	if !sleep(ctx, d.plan.HandOver-time.Since(d.began)) {
		return errNotHedged
	}
	d.t.counters.handOvers.Add(1)
	return nil
}

// sleep reports false if ctx ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// retry dials from an ephemeral port, on the caller's thread, after a dial with no hedge has
// failed: where the system gave up, because no other goroutine could hedge; or where
// it was refused, and so were others on this path. Else the error is err.
func (d *healthDial) retry(ctx context.Context, err error) (*net.TCPConn, bool, error) {
	gaveUp := d.endsEarly() && errno.IsTimedOut(err)
	if ctx.Err() != nil || !gaveUp && !d.isRejected(err) {
		return nil, false, err
	}
	d.hedgedAt.Store(int64(time.Since(d.began)))
	tcp, newErr := d.fromNewPort(ctx)
	switch {
	case gaveUp && newErr == nil:
		d.recordWin(ctx, tcp)
	case gaveUp:
		return nil, false, newErr
	case newErr != nil:
		return nil, false, err
	default:
		d.recordRetryWin(ctx, tcp)
	}
	return tcp, true, nil
}

// isRejected reports whether err is a refusal, by the peer or on the way, that is worth a try
// from an ephemeral port, and counts that try.
func (d *healthDial) isRejected(err error) bool {
	if localFault(err) != NoCause || !errno.IsRejected(err) || errno.IsTimedOut(err) {
		return false
	}
	if !d.t.health.RecordRefusal(d.t.target(d.laddr, d.raddr)) {
		return false
	}
	d.t.counters.hedges.Add(1)
	return true
}

// strongAfter is how late a hedge starts at least for its win to be strong: TCP has repeated
// the first SYN after 1 s (RFC 6298).
const strongAfter = 1100 * time.Millisecond

// recordWin records that the ephemeral port was answered and the listening port was not. tcp is
// the hedge's connection. A hedge after the whole HedgeDelay is evidence enough: the user
// has said so.
func (d *healthDial) recordWin(ctx context.Context, tcp *net.TCPConn) {
	d.t.counters.hedgeWins.Add(1)
	at := time.Duration(d.hedgedAt.Load())
	win := pathhealth.Win{Early: d.early.Load(), Strong: at >= min(strongAfter, d.t.hedgeDelay())}
	to := d.targetOf(tcp)
	d.t.log().DebugContext(ctx, "hedge won: the listening port was not answered", "source", to.Source, "raddr", d.raddr,
		"distance", distanceOf(to.Distance), "after", at, "proof", win.Strong)
	d.logBlock(to, d.t.health.RecordHedgeWin(to, win))
}

// recordRetryWin records that the listening port was refused, and the ephemeral one was not.
func (d *healthDial) recordRetryWin(ctx context.Context, tcp *net.TCPConn) {
	d.t.counters.hedgeWins.Add(1)
	to := d.targetOf(tcp)
	d.t.log().DebugContext(ctx, "hedge won: the listening port was refused", "source", to.Source, "raddr", d.raddr,
		"distance", distanceOf(to.Distance))
	d.logBlock(to, d.t.health.RecordRetryWin(to))
}

func (d *healthDial) logBlock(to pathhealth.Target, blocked bool) {
	if blocked {
		d.t.log().Warn("path blocked: dials leave from ephemeral ports", "source", to.Source, "raddr", d.raddr, "distance", distanceOf(to.Distance))
	}
}

// targetOf is target once a connection tells the source.
func (d *healthDial) targetOf(tcp *net.TCPConn) pathhealth.Target {
	source := d.laddr
	if source.Addr().IsUnspecified() {
		source = netip.AddrPortFrom(netaddr.From(tcp.LocalAddr()).Addr(), source.Port())
	}
	return d.t.target(source, d.raddr)
}

// recordFailure records a dial that nobody answered in time. A dial that was ended sooner is no
// evidence.
func (d *healthDial) recordFailure(ctx context.Context, err error) {
	if !errors.Is(err, context.DeadlineExceeded) && !errno.IsTimedOut(err) {
		return
	}
	hedged := d.hedgedAt.Load() != 0
	if hedged && !d.t.health.NeedsSource() {
		return // there is no suspicion to clear
	}
	to, sourceErr := d.target(context.WithoutCancel(ctx))
	switch {
	case sourceErr != nil:
	case hedged:
		d.t.health.RecordSilence(to)
	default:
		d.t.health.RecordTimeout(to)
	}
}

func (d *healthDial) opError(err error) error {
	return opError("dial", netaddr.Network(d.raddr.Addr()), d.laddr, d.raddr, err)
}

// isStarved reports whether err is that of a second dial, which has no local address, that found
// no port or descriptor. The first has given up by then, and goes on.
func isStarved(err error) bool {
	op, ok := err.(*net.OpError)
	return ok && op.Source == nil && (errno.IsAddrNotAvail(err) || errno.IsOutOfResources(err))
}

// fillSource gives an error of the second dial the local address of the whole dial.
func (d *healthDial) fillSource(err error) error {
	if op, ok := err.(*net.OpError); ok && op.Source == nil {
		return d.opError(op.Err)
	}
	return err
}

// recordHandshake records a connection that left from a listening port.
func (t *Transport) recordHandshake(local, remote netip.AddrPort) {
	if remote.Addr().IsLoopback() {
		return
	}
	if to := t.target(local, remote); t.health.RecordHandshake(to) {
		t.log().Info("path recovered: dials leave from the listening port again", "source", local, "raddr", remote, "distance", distanceOf(to.Distance))
	}
}
