package reuseport_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
)

// TestCloseStuckLeavesNothing: 10,000 closes whose peers do not read are each given up at
// FlushTimeout and counted, and nothing stays.
func TestCloseStuckLeavesNothing(t *testing.T) {
	long(t, "closes 10,000 connections")
	const waves, wave = 5, 2000
	tr := reuseport.Transport{FlushTimeout: 300 * time.Millisecond}
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	l, port := stuckPeer(t)
	settled(t)
	fds, goroutines := descriptors(), runtime.NumGoroutine()
	for range waves {
		ends := closeStuck(t, &tr, l, port, wave)
		awaitCloses(t, &tr)
		resetAll(t, ends)
	}
	s := tr.Stats()
	if s.ClosesAborted != waves*wave || s.ClosesReset != 0 || s.BytesUndelivered == 0 {
		t.Errorf("%d aborted, %d reset, %d bytes", s.ClosesAborted, s.ClosesReset, s.BytesUndelivered)
	}
	awaitAtMost(t, "descriptors", fds, descriptors)
	awaitAtMost(t, "goroutines", goroutines, runtime.NumGoroutine)
}

// roomForCloses is how many closes may be pending: an eighth of the limit of descriptors, and
// 4096 at most.
func roomForCloses(t *testing.T) int {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return int(min(4096, limit.Cur/8))
}

// TestClosePendingBound: if there are more closes than may be pending, the oldest are left to
// the system. Their peers can still read everything.
func TestClosePendingBound(t *testing.T) {
	long(t, "closes thousands of connections")
	const more = 50
	bound := roomForCloses(t)
	tr := reuseport.Transport{FlushTimeout: time.Minute}
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	l, port := stuckPeer(t)
	settled(t)
	before := runtime.NumGoroutine()
	ends := closeStuck(t, &tr, l, port, bound+more)
	if s := tr.Stats(); s.ClosesPending != bound || s.ClosesAborted != more {
		t.Errorf("%d pending, %d left; want %d and %d", s.ClosesPending, s.ClosesAborted, bound, more)
	}
	awaitAtMost(t, "goroutines for pending closes", before+1, runtime.NumGoroutine)
	for _, c := range ends[:more] { // the oldest
		if n, err := io.Copy(io.Discard, c); err != nil || n == 0 {
			t.Fatalf("the peer of a close that was left read %d bytes, then %v", n, err)
		}
	}
	resetAll(t, ends[more:2*more]) // the oldest now
	defer resetAll(t, closeStuck(t, &tr, l, port, more))
	if s := tr.Stats(); s.ClosesAborted != more {
		t.Errorf("%d left, with those whose peer had reset", s.ClosesAborted)
	}
	resetAll(t, ends[2*more:])
	awaitAtMost(t, "pending closes", more, func() int { return tr.Stats().ClosesPending })
	if s := tr.Stats(); s.ClosesReset != uint64(bound) {
		t.Errorf("%d of %d counted as reset by the peer", s.ClosesReset, bound)
	}
}

// TestEvictedGoesOn: a close that has to make room loses nothing: its slow peer reads
// everything and EOF.
func TestEvictedGoesOn(t *testing.T) {
	long(t, "closes thousands of connections")
	const size = 100 << 10
	tr := reuseport.Transport{FlushTimeout: time.Minute}
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	l, port := stuckPeer(t)
	c, end := writeTo(t, &tr, l, port, 0)
	if err := c.SetWriteBuffer(4 * size); err != nil {
		t.Fatal(err)
	}
	<-writeThenClose(t, c, pattern(size))
	resetAll(t, closeStuck(t, &tr, l, port, roomForCloses(t)))
	if n := tr.Stats().ClosesAborted; n == 0 {
		t.Error("nothing was evicted")
	}
	wantDataThenEOF(t, slowly(end, 20<<10, 100*time.Millisecond), pattern(size))
}

// closeStuck closes n connections to a peer that does not read, each with data outstanding,
// and returns the peer's ends.
func closeStuck(t *testing.T, tr *reuseport.Transport, l *net.TCPListener, port uint16, n int) []net.Conn {
	t.Helper()
	conns, ends := writeStuck(t, tr, l, port, n)
	closeAll(t, conns)
	return ends
}

// writeStuck dials n connections to a peer that does not read, and writes more than goes
// through.
func writeStuck(t *testing.T, tr *reuseport.Transport, l *net.TCPListener, port uint16, n int) (conns []*reuseport.Conn, ends []net.Conn) {
	t.Helper()
	for i := range n {
		ip := netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)})
		c := dialOnce(t, tr, tcpMultiaddr(ip, port))
		end, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(pattern(64 << 10)); err != nil {
			t.Fatal(err)
		}
		conns, ends = append(conns, c), append(ends, end)
	}
	return conns, ends
}

func closeAll(t *testing.T, conns []*reuseport.Conn) {
	t.Helper()
	for _, c := range conns {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// resetAll resets the ends of a plain peer.
func resetAll(t testing.TB, conns []net.Conn) {
	t.Helper()
	for _, c := range conns {
		if err := errors.Join(c.(*net.TCPConn).SetLinger(0), c.Close()); err != nil {
			t.Error(err)
		}
	}
}
