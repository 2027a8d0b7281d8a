package flush

import (
	"context"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bindable reports whether a socket that may share its port can be connected on the 4-tuple of c.
// What answers is the peer's listener.
func bindable(t *testing.T, c *Closing) bool {
	t.Helper()
	d := net.Dialer{
		LocalAddr: net.TCPAddrFromAddrPort(c.Laddr),
		Control: func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			})
		},
	}
	conn, err := d.Dial("tcp4", c.Raddr.String())
	if err != nil {
		return false
	}
	abort(t, conn.(*net.TCPConn))
	return true
}

// TestTryRelease: a dial gets the 4-tuple of a close of which everything is acknowledged. It
// costs the peer a reset after the EOF, but not where FreeTuple forbids that.
func TestTryRelease(t *testing.T) {
	for _, free := range []bool{true, false} {
		f := untimed()
		c, peer := closed(t, 10)
		c.FreeTuple = free
		f.Add(c)
		wantAll(t, peer, 10)
		if f.TryRelease(c.Laddr, c.Raddr) {
			t.Errorf("FreeTuple %v: still held", free)
		}
		wantPending(t, f, 0)
		wantClosed(t, c.FD)
		want := uint8(stateClosed)
		if !free {
			want = stateCloseWait
		}
		wantState(t, peer, want)
		if got := bindable(t, c); got != free {
			t.Errorf("FreeTuple %v: the 4-tuple is free: %v", free, got)
		}
		if counts := f.Counts(); counts != (Counts{}) {
			t.Errorf("counted %+v", counts)
		}
	}
}

// TestTryReleaseHeld: a close with data outstanding keeps the 4-tuple, and its peer gets
// everything. Then a dial gets it.
func TestTryReleaseHeld(t *testing.T) {
	f := untimed()
	c, peer := closed(t, stuck)
	f.Add(c)
	for range 3 {
		if !f.TryRelease(c.Laddr, c.Raddr) {
			t.Fatal("not held")
		}
	}
	wantAll(t, peer, stuck)
	wantState(t, peer, stateCloseWait)
	if f.TryRelease(c.Laddr, c.Raddr) || !bindable(t, c) {
		t.Error("still held")
	}
}

// TestTryReleaseOthers: closes of other 4-tuples are left alone.
func TestTryReleaseOthers(t *testing.T) {
	f := untimed()
	c, peer := closed(t, 10)
	f.Add(c)
	wantAll(t, peer, 10)
	for _, other := range []tuple{stranger, {c.Laddr, stranger.raddr}, {stranger.laddr, c.Raddr}} {
		if f.TryRelease(other.laddr, other.raddr) {
			t.Errorf("%v is held", other)
		}
	}
	wantPending(t, f, 1)
	wantState(t, peer, stateCloseWait)
}

// TestTryReleaseReset: a close whose peer has reset it with data outstanding does not hold its
// 4-tuple, and counts.
func TestTryReleaseReset(t *testing.T) {
	f := untimed()
	c, peer := closed(t, stuck)
	f.Add(c)
	f.Counts() // inspected
	abort(t, peer)
	if f.TryRelease(c.Laddr, c.Raddr) {
		t.Error("still held")
	}
	wantPending(t, f, 0)
	if counts := f.Counts(); counts.Reset != 1 || counts.Left != 0 || counts.Bytes == 0 {
		t.Errorf("counted %+v", counts)
	}
}

// TestTryReleaseClaimed: a close that somebody else works on still holds its 4-tuple, and is left
// alone.
func TestTryReleaseClaimed(t *testing.T) {
	f := untimed()
	c, peer := closed(t, 0)
	f.Add(c)
	f.mu.Lock()
	f.claim(c)
	f.mu.Unlock()
	if !f.TryRelease(c.Laddr, c.Raddr) {
		t.Error("not held")
	}
	wantPending(t, f, 1)
	f.step(c)
	wantAll(t, peer, 0)
	if f.TryRelease(c.Laddr, c.Raddr) {
		t.Error("still held")
	}
}

// TestAwaitRelease: a dial waits for the acknowledgement of what the close has outstanding, and
// for nothing else.
func TestAwaitRelease(t *testing.T) {
	t.Parallel()
	var f Flusher
	c, peer := closed(t, stuck)
	f.Add(c)
	const late = 50 * time.Millisecond
	time.AfterFunc(late, func() { wantAll(t, peer, stuck) })
	start := time.Now()
	if !f.AwaitRelease(t.Context(), c.Laddr, c.Raddr, 0) {
		t.Error("not free")
	}
	if d := time.Since(start); d < late || d > redialWait {
		t.Errorf("waited %v", d)
	}
	if !bindable(t, c) {
		t.Error("the 4-tuple is taken")
	}
}

// TestAwaitReleaseInVain: a close that keeps its 4-tuple is waited for no longer than redialWait
// or the context.
func TestAwaitReleaseInVain(t *testing.T) {
	t.Parallel()
	var f Flusher
	c, peer := closed(t, stuck)
	f.Add(c)
	start := time.Now()
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if f.AwaitRelease(soon, c.Laddr, c.Raddr, 0) {
		t.Error("free")
	}
	if d := time.Since(start); d < 20*time.Millisecond || d > redialWait/2 {
		t.Errorf("waited %v for the context", d)
	}
	start = time.Now()
	if f.AwaitRelease(t.Context(), c.Laddr, c.Raddr, 0) {
		t.Error("free")
	}
	if d := time.Since(start); d < redialWait || d > 5*redialWait {
		t.Errorf("waited %v", d)
	}
	wantAll(t, peer, stuck)
}

// TestAwaitReleaseRecent: where the system completes the close, a dial tries again, a little
// later each time, for as long as the close is remembered.
func TestAwaitReleaseRecent(t *testing.T) {
	t.Parallel()
	var f Flusher
	if f.AwaitRelease(t.Context(), stranger.laddr, stranger.raddr, 0) {
		t.Error("a 4-tuple that was none of ours")
	}
	f.Note(stranger.laddr, stranger.raddr)
	for try, want := range map[int]time.Duration{0: 0, 1: 2 * shortWait, 2: 4 * shortWait, 3: maxRetryWait, 1000: maxRetryWait} {
		start := time.Now()
		if !f.AwaitRelease(t.Context(), stranger.laddr, stranger.raddr, try) {
			t.Errorf("try %d: given up", try)
		}
		if d := time.Since(start); d < want {
			t.Errorf("try %d after %v, want %v", try, d, want)
		}
	}
	start := time.Now()
	for range 1000 {
		f.AwaitRelease(t.Context(), stranger.laddr, stranger.raddr, 0)
	}
	if d := time.Since(start); d > 1000*shortWait {
		t.Errorf("1000 first tries took %v: the first waits for nothing", d)
	}
	f.Note(stranger.laddr, stranger.raddr) // the loop may have taken long
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if f.AwaitRelease(ended, stranger.laddr, stranger.raddr, 3) {
		t.Error("another try although the context has ended")
	}
	f.Forget(stranger.laddr, stranger.raddr)
	if f.AwaitRelease(t.Context(), stranger.laddr, stranger.raddr, 0) {
		t.Error("another try although the close was forgotten")
	}
}

// TestMayHoldPending: MayHold goes by the local port and the whole remote address of a pending
// close.
func TestMayHoldPending(t *testing.T) {
	f := untimed()
	c, _ := closed(t, stuck)
	port := c.Laddr.Port()
	if f.MayHold(port, c.Raddr) {
		t.Error("held before the close")
	}
	f.Add(c)
	if !f.MayHold(port, c.Raddr) {
		t.Error("not held")
	}
	if f.MayHold(port^1, c.Raddr) || f.MayHold(port, stranger.raddr) {
		t.Error("a close of another port, or of another peer, is taken for it")
	}
}
