package flush

import (
	"testing"
	"time"
)

// wantLatencies checks how many closes each histogram has.
func wantLatencies(t *testing.T, f *Flusher, delivered, left, reset uint64) {
	t.Helper()
	l := f.Latencies()
	if d, e, r := l.Delivered.Counts().All, l.Left.Counts().All, l.Reset.Counts().All; d != delivered || e != left || r != reset {
		t.Errorf("%d delivered, %d left, %d reset; want %d, %d, %d", d, e, r, delivered, left, reset)
	}
}

// TestLatencyDelivered: a close counts once, when everything is acknowledged and not when its
// peer ends. The time is that of the acknowledgement, not that of the inspection.
func TestLatencyDelivered(t *testing.T) {
	t.Parallel()
	f := untimed()
	c, peer := closed(t, stuck)
	c.Loopback = false // there the FIN need not be acknowledged
	f.Add(c)
	f.inspectNow(c)
	wantLatencies(t, f, 0, 0, 0)
	time.Sleep(100 * time.Millisecond)
	wantAll(t, peer, stuck)
	const late = 500 * time.Millisecond
	time.Sleep(late)
	for range 3 {
		f.inspectNow(c)
	}
	peer.Close()
	await(t, "its end", func() bool { f.inspectNow(c); return pending(f) == 0 })
	wantLatencies(t, f, 1, 0, 0)
	if took := f.Latencies().Delivered.Counts().Seconds; took < 0.05 || took > late.Seconds() {
		t.Errorf("took %v s; read after 0.1 s, inspected 0.5 s later", took)
	}
}

// TestLatencyBeforeClose: what was acknowledged before the close takes no time.
func TestLatencyBeforeClose(t *testing.T) {
	t.Parallel()
	f := untimed()
	ours, _ := connect(t, newListener(t))
	time.Sleep(50 * time.Millisecond)
	f.Add(closeConn(t, ours))
	f.Counts()
	wantLatencies(t, f, 1, 0, 0)
	if took := f.Latencies().Delivered.Counts().Seconds; took > 0.025 {
		t.Errorf("took %v s", took)
	}
}

// TestLatencyByEnd: a close that a dial ends, one that makes room, one whose peer is silent and
// one whose peer resets count once each.
func TestLatencyByEnd(t *testing.T) {
	f := untimed()
	c, _ := closed(t, 0)
	f.Add(c)
	f.TryRelease(c.Laddr, c.Raddr)
	wantPending(t, f, 0)
	wantLatencies(t, f, 1, 0, 0)
	addClosed(t, f, 1)
	f.GiveUp()
	wantLatencies(t, f, 1, 1, 0)
	c, peer := closed(t, stuck)
	abort(t, peer)
	f.Add(c)
	wantPending(t, f, 0)
	wantLatencies(t, f, 1, 1, 1)
	c, _ = closed(t, stuck)
	c.Stall = 20 * time.Millisecond
	f.Add(c)
	await(t, "patience to end", func() bool { f.inspectNow(c); return pending(f) == 0 })
	wantLatencies(t, f, 1, 2, 1)
	if took := f.Latencies().Left.Counts().Seconds; took < 0.02 {
		t.Errorf("left within %v s", took)
	}
}

// TestLatencyUnknown: where the system does not tell what is acknowledged, a close counts when
// its peer has closed too.
func TestLatencyUnknown(t *testing.T) {
	f := untimed()
	c, _ := closed(t, 0)
	c.closed = time.Now().Add(-time.Second)
	f.end(c, status{unacked: unknown, finished: true}, done)
	wantLatencies(t, f, 1, 0, 0)
	if took := f.Latencies().Delivered.Counts().Seconds; took < 1 {
		t.Errorf("took %v s, want 1", took)
	}
}
