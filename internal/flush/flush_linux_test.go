package flush

import (
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport/internal/sockopt"
)

// TestAdd: a close goes on until its peer has read everything and ended too. The timer alone
// sees to it, and closes the descriptor.
func TestAdd(t *testing.T) {
	for _, size := range []int{0, stuck} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			var f Flusher
			c, peer := closed(t, size)
			f.Add(c)
			wantPending(t, &f, 1)
			wantAll(t, peer, size)
			wantState(t, peer, stateCloseWait)
			wantPending(t, &f, 1)
			peer.Close()
			await(t, "over", func() bool { return pending(&f) == 0 })
			wantClosed(t, c.FD)
			if counts := f.Counts(); counts != (Counts{}) {
				t.Errorf("counted %+v", counts)
			}
		})
	}
}

// TestAddAgain: after the last close is over, the next one is inspected in time again.
func TestAddAgain(t *testing.T) {
	t.Parallel()
	var f Flusher
	for range 3 {
		c, peer := closed(t, 1)
		f.Add(c)
		wantAll(t, peer, 1)
		peer.Close()
		await(t, "over", func() bool { return pending(&f) == 0 })
	}
}

// TestAddBeside: a close that is inspected seldom by now is still inspected after a younger one
// is over.
func TestAddBeside(t *testing.T) {
	t.Parallel()
	var f Flusher
	old, oldPeer := closed(t, 0)
	f.Add(old)
	time.Sleep(10 * firstWait) // until its interval is long
	young, youngPeer := closed(t, 0)
	f.Add(young)
	youngPeer.Close()
	await(t, "the younger one is over", func() bool { return pending(&f) == 1 })
	oldPeer.Close()
	await(t, "both are over", func() bool { return pending(&f) == 0 })
}

// TestArm: the timer fires for the soonest.
func TestArm(t *testing.T) {
	var f Flusher
	hour := time.Now().Add(time.Hour)
	for _, row := range []struct{ due, next time.Duration }{{5, 5}, {6, 5}, {5, 5}, {3, 3}, {4, 3}} {
		f.arm(hour.Add(row.due))
		if want := hour.Add(row.next); !f.next.Equal(want) {
			t.Errorf("armed for %v, the timer fires at %v", hour.Add(row.due), f.next)
		}
	}
	if !f.timer.Stop() {
		t.Error("the timer is not running")
	}
}

// TestArmForSoonest: of the connections that nobody works on the timer fires for the one that is due
// first, wherever it is in the list.
func TestArmForSoonest(t *testing.T) {
	hour := time.Now().Add(time.Hour)
	for _, dues := range [][]time.Duration{{0, 1, 2, 3}, {0, 3, 2, 1}, {0, 2, 1, 3}} {
		var f Flusher
		for _, due := range dues {
			f.pending = append(f.pending, &Closing{due: hour.Add(due), claimed: due == 0})
		}
		f.armForSoonest()
		if want := hour.Add(1); !f.next.Equal(want) {
			t.Errorf("of %v the timer fires %v after the first", dues, f.next.Sub(hour))
		}
		f.timer.Stop()
	}
	f := Flusher{pending: []*Closing{{claimed: true}}}
	if f.armForSoonest(); f.armed {
		t.Error("armed for a connection that somebody works on")
	}
}

// TestAddDiscards: what the peer sends after the close is discarded, and brings no reset.
func TestAddDiscards(t *testing.T) {
	t.Parallel()
	var f Flusher
	c, peer := closed(t, 1)
	f.Add(c)
	for range 4 {
		if _, err := peer.Write(make([]byte, 2<<20)); err != nil { // more than the buffers hold
			t.Fatal(err)
		}
	}
	wantAll(t, peer, 1)
	wantState(t, peer, stateCloseWait)
}

// TestAddNoSocket: where the system denies shutdown, the descriptor is closed and nothing is
// kept.
func TestAddNoSocket(t *testing.T) {
	f := untimed()
	fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Add(&Closing{FD: uintptr(fd)})
	wantPending(t, f, 0)
	wantClosed(t, uintptr(fd))
}

// TestAddAfterReset: a close whose peer has reset counts at once what did not arrive. It does
// so too if the reset was read before.
func TestAddAfterReset(t *testing.T) {
	for _, seen := range []bool{false, true} {
		f := untimed()
		ours, peer := connect(t, newListener(t))
		if _, err := ours.Write(make([]byte, stuck)); err != nil {
			t.Fatal(err)
		}
		abort(t, peer)
		if seen {
			if _, err := ours.Read(make([]byte, 1)); err == nil {
				t.Fatal("no reset")
			}
		}
		c := closeConn(t, ours)
		f.Add(c)
		wantPending(t, f, 0)
		wantClosed(t, c.FD)
		if counts := f.Counts(); counts.Reset != 1 || counts.Left != 0 || counts.Undelivered != 1 || counts.Bytes == 0 {
			t.Errorf("reset seen before %v: counted %+v", seen, counts)
		}
	}
}

// TestLeftToSystem: a close whose peer's TCP is silent for Stall is left to the system, and
// counted. The peer still gets everything.
func TestLeftToSystem(t *testing.T) {
	var f Flusher
	c, peer := closed(t, stuck)
	c.Stall = 50 * time.Millisecond
	f.Add(c)
	await(t, "left", func() bool { return pending(&f) == 0 })
	wantClosed(t, c.FD)
	if counts := f.Counts(); counts.Left != 1 || counts.Reset != 0 || counts.Undelivered != 1 || counts.Bytes == 0 || counts.Bytes > stuck {
		t.Errorf("counted %+v", counts)
	}
	wantAll(t, peer, stuck)
}

// TestLeftFIN: a FIN that is not acknowledged for Stall is left to the system too. The data has
// been delivered.
func TestLeftFIN(t *testing.T) {
	t.Parallel()
	var f Flusher
	c, _ := closedDeaf(t, 0)
	c.Loopback, c.Stall = false, 50*time.Millisecond
	f.Add(c)
	await(t, "left", func() bool { return pending(&f) == 0 })
	if counts := f.Counts(); counts != (Counts{Left: 1}) {
		t.Errorf("counted %+v", counts)
	}
}

// TestCounts: what was never inspected is inspected first, however many. Only
// closes with something outstanding count as pending.
func TestCounts(t *testing.T) {
	f := untimed()
	l := newListener(t)
	var quiet []*Closing
	for range many {
		ours, _ := connect(t, l)
		quiet = append(quiet, closeConn(t, ours))
	}
	peers := addClosed(t, f, 2)
	for _, c := range quiet {
		f.Add(c)
	}
	if counts := f.Counts(); counts != (Counts{Pending: 2}) {
		t.Errorf("counted %+v", counts)
	}
	wantPending(t, f, many+2) // their peers have not ended
	for _, peer := range peers {
		wantAll(t, peer, stuck)
	}
}

// TestCountsEnd: what a close counts as at its end. One with its FIN alone outstanding has
// delivered. Where the system does not tell, data may be outstanding.
func TestCountsEnd(t *testing.T) {
	for _, row := range []struct {
		unacked int
		verdict verdict
		want    Counts
	}{
		{sockopt.FINUnacked, left, Counts{Left: 1}},
		{sockopt.FINUnacked, lost, Counts{Reset: 1}},
		{sockopt.FINUnacked + 1, left, Counts{Left: 1, Undelivered: 1, Bytes: 1}},
		{sockopt.FINUnacked + 9, lost, Counts{Reset: 1, Undelivered: 1, Bytes: 9}},
		{unknown, left, Counts{Left: 1, Undelivered: 1}},
		{0, done, Counts{}},
	} {
		f := untimed()
		c, _ := closed(t, 0)
		f.end(c, status{unacked: row.unacked}, row.verdict)
		if counts := f.Counts(); counts != row.want {
			t.Errorf("%d unacknowledged, verdict %d: counted %+v, want %+v", row.unacked, row.verdict, counts, row.want)
		}
	}
}

// TestGiveUp: descriptors of the older half are given up, of 16 at least. The peers still get
// everything.
func TestGiveUp(t *testing.T) {
	for n, want := range map[int]int{0: 0, 1: 1, 15: 15, 20: 16, 40: 20} {
		f := untimed()
		peers := addClosed(t, f, n)
		if got := f.GiveUp(); got != want {
			t.Errorf("%d of %d given up, want %d", got, n, want)
		}
		wantPending(t, f, n-want)
		if counts := f.Counts(); counts.Left != uint64(want) || counts.Pending != n-want {
			t.Errorf("of %d given up: counted %+v", n, counts)
		}
		for _, peer := range peers[:want] {
			wantAll(t, peer, stuck)
		}
		wantPending(t, f, n-want) // the younger ones
		for _, peer := range peers[want:] {
			abort(t, peer)
		}
		if left, err := f.Await(t.Context()); left.Conns != n-want || err != nil {
			t.Errorf("%d reset, %v; want %d", left.Conns, err, n-want)
		}
		wantPending(t, f, 0)
	}
}

// TestLimit: of more closes than the limit the oldest make room. Their peers still get
// everything.
func TestLimit(t *testing.T) {
	for limit, want := range map[int]int{-1: 1, 0: 1, 1: 1, 3: 3} {
		f := untimed()
		f.Limit(limit)
		var peers []*net.TCPConn
		for n := 1; n <= 5; n++ {
			peers = append(peers, addClosed(t, f, 1)...)
			wantPending(t, f, min(n, want))
		}
		evicted := len(peers) - want
		if counts := f.Counts(); counts.Left != uint64(evicted) || counts.Pending != want {
			t.Errorf("limit %d: counted %+v", limit, counts)
		}
		for _, peer := range peers[:evicted] {
			wantAll(t, peer, stuck)
		}
		wantPending(t, f, want)
	}
}

// TestLimitLowered: a limit that comes later makes room with the next close.
func TestLimitLowered(t *testing.T) {
	f := untimed()
	addClosed(t, f, 5)
	f.Limit(2)
	addClosed(t, f, 1)
	wantPending(t, f, 2)
}

// TestRoom: closes take an eighth of the descriptors that the process may have, 4096 at most
// and one at least, and no more than the limit.
func TestRoom(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
	}()
	for _, row := range []struct {
		descriptors uint64
		limit, want int
	}{
		{1024, 0, 128}, {1024, 100, 100}, {1024, 200, 128}, {15, 0, 1}, {7, 0, 1}, {7, 5, 1},
		{limit.Max, 0, int(min(maxRoom, limit.Max/perDescriptors))},
	} {
		low := unix.Rlimit{Cur: row.descriptors, Max: limit.Max}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
			t.Fatal(err)
		}
		f := Flusher{limit: row.limit}
		f.measureRoom()
		if f.room != row.want {
			t.Errorf("of %d descriptors and with limit %d: room %d, want %d", row.descriptors, row.limit, f.room, row.want)
		}
	}
}

// TestSweepMeasuresRoom: a changed limit of descriptors is noticed.
func TestSweepMeasuresRoom(t *testing.T) {
	var f Flusher
	c, _ := closed(t, 0)
	f.Add(c)
	setRoom(&f, 1)
	await(t, "measured", func() bool { return roomOf(&f) > 1 })
}

func roomOf(f *Flusher) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.room
}

func setRoom(f *Flusher, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.room = n
}

// TestInspectUnacked: what has left and is not acknowledged is outstanding. On loopback a FIN
// that has left arrives.
func TestInspectUnacked(t *testing.T) {
	for _, row := range []struct {
		loopback   bool
		size, want int
	}{
		{true, 0, 0}, {true, 10, 10 + sockopt.FINUnacked},
		{false, 0, sockopt.FINUnacked}, {false, 10, 10 + sockopt.FINUnacked},
	} {
		f := untimed()
		c, _ := closedDeaf(t, row.size)
		c.Loopback = row.loopback
		f.Add(c)
		if s := f.inspect(c, time.Now()); s.unacked != row.want || s.finished || s.broken {
			t.Errorf("loopback %v, %d bytes: %+v, want %d unacknowledged", row.loopback, row.size, s, row.want)
		}
	}
}

// TestInspectShutWindow: a FIN that waits behind a shut window is outstanding, on loopback too.
func TestInspectShutWindow(t *testing.T) {
	f := untimed()
	window := stuck - unackedOf(t, stuck)
	c, peer := closed(t, window)
	await(t, "all is acknowledged", func() bool { n, err := sockopt.Unacked(c.FD); return n == 0 && err == nil })
	f.Add(c)
	if s := f.inspect(c, time.Now()); s.unacked != sockopt.FINUnacked {
		t.Errorf("%+v, want the FIN unacknowledged", s)
	}
	wantAll(t, peer, window)
	if s := f.inspect(c, time.Now()); s.unacked != 0 {
		t.Errorf("%+v, want nothing unacknowledged", s)
	}
}

// unackedOf returns how many of n bytes a peer's window does not take.
func unackedOf(t *testing.T, n int) int {
	t.Helper()
	ours, _ := connect(t, newListener(t))
	defer ours.Close()
	if _, err := ours.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // until the window is full
	var unacked int
	onSocket(t, ours, func(fd uintptr) (err error) {
		unacked, err = sockopt.Unacked(fd)
		return err
	})
	return unacked
}

// TestInspectReset: a reset shows also where reading does not tell: after the peer's FIN, and past
// maxDiscard.
func TestInspectReset(t *testing.T) {
	for _, size := range []int{0, 10} {
		for _, flooded := range []bool{false, true} {
			f := untimed()
			c, peer := closedDeaf(t, size)
			c.Loopback = false
			f.Add(c)
			if flooded {
				c.discarded = maxDiscard
			} else if err := peer.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			before := f.inspect(c, time.Now())
			abort(t, peer)
			after := f.inspect(c, time.Now())
			if before.broken || before.finished == flooded || !after.broken {
				t.Errorf("%d bytes, flooded %v: before the reset %+v, after it %+v", size, flooded, before, after)
			}
		}
	}
}

// TestDrain: what has come in is discarded, but nothing past maxDiscard. The peer's end shows.
func TestDrain(t *testing.T) {
	var f Flusher
	ours, peer := connect(t, newListener(t))
	unread(t, ours, peer, 10)
	c := &Closing{FD: dup(t, ours)}
	defer sockopt.Close(c.FD)
	wantDrained := func(want status, discarded int) {
		t.Helper()
		if got := f.drain(c); got != want || c.discarded != discarded {
			t.Errorf("drained %+v, %d bytes in all; want %+v, %d", got, c.discarded, want, discarded)
		}
	}
	wantDrained(status{received: 10}, 10)
	wantDrained(status{}, 10)
	c.discarded = maxDiscard - 10
	unread(t, ours, peer, 10)
	wantDrained(status{received: 10, flooded: true}, maxDiscard)
	unread(t, ours, peer, 10)
	wantDrained(status{flooded: true}, maxDiscard)
	c.discarded = 0
	wantDrained(status{received: 10}, 10)
	if err := peer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	await(t, "the peer's end", func() bool { return f.drain(c).finished })
	wantDrained(status{finished: true}, 10)
}

// TestDrainReset: a reset of the peer is no end of it.
func TestDrainReset(t *testing.T) {
	var f Flusher
	ours, peer := connect(t, newListener(t))
	c := &Closing{FD: dup(t, ours)}
	defer sockopt.Close(c.FD)
	abort(t, peer)
	if got := f.drain(c); got != (status{broken: true}) {
		t.Errorf("drained %+v", got)
	}
}

// TestDiscardAll: after it nothing is unread. The peer's end ends it too.
func TestDiscardAll(t *testing.T) {
	var f Flusher
	ours, peer := connect(t, newListener(t))
	unread(t, ours, peer, 300_000)
	time.Sleep(10 * time.Millisecond) // until all is there
	onSocket(t, ours, func(fd uintptr) error {
		f.DiscardAll(fd)
		unread, err := sockopt.HasUnread(fd)
		if unread {
			t.Error("something is unread")
		}
		return err
	})
	peer.Close()
	if _, err := ours.Read(make([]byte, 1)); err != io.EOF {
		t.Error(err)
	}
	onSocket(t, ours, func(fd uintptr) error { f.DiscardAll(fd); return nil }) // returns
}

// TestSilence: where the system does not tell when the peer's TCP last answered, what it sends
// and what it acknowledges are its answers.
func TestSilence(t *testing.T) {
	start := time.Now()
	c := &Closing{FD: ^uintptr(0), heard: start} // no socket
	for _, row := range []struct {
		at, want time.Duration
		s        status
	}{
		{time.Second, time.Second, status{unacked: 5}},
		{2 * time.Second, 0, status{unacked: 4}},              // acknowledged a byte
		{3 * time.Second, time.Second, status{unacked: 4}},    // nothing new
		{4 * time.Second, 0, status{unacked: 4, received: 1}}, // sent a byte
		{5 * time.Second, time.Second, status{unacked: 4}},
		{6 * time.Second, 0, status{unacked: 0}},
	} {
		if row.at == time.Second {
			c.status.unacked = 5
		}
		if got := c.silence(row.s, start.Add(row.at)); got != row.want {
			t.Errorf("after %v, %+v: silent for %v, want %v", row.at, row.s, got, row.want)
		}
		c.status = row.s
	}
}

// TestSilenceSinceClose: a long silence before the close does not count.
func TestSilenceSinceClose(t *testing.T) {
	ours, _ := connect(t, newListener(t))
	if _, err := ours.Write(make([]byte, stuck)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	onSocket(t, ours, func(fd uintptr) error {
		now := time.Now()
		c := &Closing{FD: fd, heard: now.Add(-10 * time.Millisecond)}
		if d := c.silence(status{unacked: 5}, now); d != 10*time.Millisecond {
			t.Errorf("silent for %v, want 10ms", d)
		}
		c.heard = now.Add(-time.Hour)
		if d := c.silence(status{unacked: 5}, now); d > time.Minute {
			t.Errorf("silent for %v although the peer has answered since", d)
		}
		return nil
	})
}

// TestDup: a high number shows that few descriptors are left. Then no second one is taken. What
// is high is seven eighths of the limit.
func TestDup(t *testing.T) {
	ours, _ := connect(t, newListener(t))
	first := dup(t, ours)
	defer sockopt.Close(first)
	for _, row := range []struct {
		highest uintptr
		want    bool
	}{{first + 100, true}, {first, false}} {
		f := Flusher{room: 1, highest: row.highest}
		onSocket(t, ours, func(of uintptr) error {
			fd, ok := f.Dup(of)
			if ok != row.want {
				t.Errorf("number %d, highest %d: %v", fd, row.highest, ok)
			}
			if ok {
				return sockopt.Close(fd)
			}
			return nil
		})
	}
	var f Flusher
	limit, err := sockopt.DescriptorLimit()
	if f.isHigh(0) || err != nil || f.highest != uintptr(limit-limit/perDescriptors) {
		t.Errorf("highest %d of %d, %v", f.highest, limit, err)
	}
}

// TestInspectCloseRead: our own CloseRead is not the peer's end.
func TestInspectCloseRead(t *testing.T) {
	f := untimed()
	ours, peer := connect(t, newListener(t))
	if err := ours.CloseRead(); err != nil {
		t.Fatal(err)
	}
	c := closeConn(t, ours)
	f.Add(c)
	if s := f.inspect(c, time.Now()); s.finished || s.broken {
		t.Errorf("%+v, want no end", s)
	}
	if err := peer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	await(t, "the peer's end", func() bool { return f.inspect(c, time.Now()).finished })
}

// TestInspectDelivered: the first inspection that finds everything acknowledged tells when bytes
// last left, and whether only we can free the 4-tuple.
func TestInspectDelivered(t *testing.T) {
	f := untimed()
	ours, _ := connect(t, newListener(t))
	if _, err := ours.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	var want sockopt.Traffic
	onSocket(t, ours, func(fd uintptr) (err error) { want, err = sockopt.TrafficOf(fd); return err })
	c := closeConn(t, ours)
	f.Add(c)
	s := f.inspect(c, time.Now())
	if s.unacked != 0 || s.sinceSent < 40*time.Millisecond || s.holdsTuple == want.Timestamps {
		t.Errorf("%+v, want delivered, 50 ms after the byte; timestamps %v", s, want.Timestamps)
	}
}
