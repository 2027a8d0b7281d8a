package reuseport_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
)

// TestCloseStuckLeavesNothing: of 10,000 closes whose peers do not read, each is given up at
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

// TestClosePendingBound: of more closes than may be pending the oldest are aborted.
func TestClosePendingBound(t *testing.T) {
	long(t, "closes 4,200 connections")
	const bound, more = 4096, 50
	tr := reuseport.Transport{FlushTimeout: time.Minute}
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	l, port := stuckPeer(t)
	settled(t)
	before := runtime.NumGoroutine()
	ends := closeStuck(t, &tr, l, port, bound+more)
	if s := tr.Stats(); s.ClosesPending != bound || s.ClosesAborted != more {
		t.Errorf("%d pending, %d aborted", s.ClosesPending, s.ClosesAborted)
	}
	if n := runtime.NumGoroutine(); n > before+1 {
		t.Errorf("%d goroutines for %d pending closes", n-before, bound)
	}
	for _, c := range ends[:more] { // the oldest
		if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("the peer of an aborted close read %v", err)
		}
	}
	resetAll(t, ends[more:2*more]) // the oldest now
	defer resetAll(t, closeStuck(t, &tr, l, port, more))
	if s := tr.Stats(); s.ClosesAborted != more {
		t.Errorf("%d aborted, with those whose peer had reset", s.ClosesAborted)
	}
	resetAll(t, ends[2*more:])
	awaitAtMost(t, "pending closes", more, func() int { return tr.Stats().ClosesPending })
	if s := tr.Stats(); s.ClosesReset != bound {
		t.Errorf("%d of %d counted as reset by the peer", s.ClosesReset, bound)
	}
}

// TestEvictOnlyWhenFull: while the flusher gives up 4,096 stuck closes, others take the places
// that become free. A close that makes progress need not go for them.
func TestEvictOnlyWhenFull(t *testing.T) {
	long(t, "waits for 4,096 closes")
	const bound, closers = 4096, 256
	tr := reuseport.Transport{FlushTimeout: 3 * time.Second}
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	var peer reuseport.Transport
	conns := manyUnread(t, &tr, listenPort(t, &peer), closers)
	l, _ := stuckPeer(t)
	met, ends := closeFullTable(t, &tr, l, bound)
	if s := tr.Stats(); s.ClosesPending != bound || s.ClosesAborted != 0 {
		skip(t, "too slow: %d pending, %d aborted", s.ClosesPending, s.ClosesAborted)
	}
	for i, c := range conns { // each takes the place of a stuck one; Stats would make room by itself
		awaitReset(t, ends[i])
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	select {
	case err := <-met:
		t.Error("the close that made progress: ", err)
	case <-time.After(time.Second):
	}
}

// awaitReset waits until the connection of a plain peer is reset, without reading. It returns
// sooner than await would.
func awaitReset(t *testing.T, c net.Conn) {
	t.Helper()
	const closed = 7 // TCP_CLOSE of <netinet/tcp.h>
	var info *unix.TCPInfo
	for deadline := time.Now().Add(patience); info == nil || info.State != closed; time.Sleep(20 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatal("a stuck close is not given up")
		}
		onSocket(t, c, func(fd int) (err error) {
			info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
			return err
		})
	}
}

// closeFullTable closes bound connections: first one whose peer keeps reading, for 10 s and
// more, then those of a peer that does not read. The channel gets how reading ends. The
// connections are the other peer's ends.
func closeFullTable(t *testing.T, tr *reuseport.Transport, l *net.TCPListener, bound int) (<-chan error, []net.Conn) {
	t.Helper()
	const size = 100 << 10
	port := uint16(portOf(l.Addr()))
	c, end := writeTo(t, tr, l, port, 0)
	if err := c.SetWriteBuffer(4 * size); err != nil {
		t.Fatal(err)
	}
	stuck, ends := writeStuck(t, tr, l, port, bound-1)
	t.Cleanup(func() { resetAll(t, ends) })
	<-writeThenClose(t, c, pattern(size))
	met := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, slowly(end, 20<<10, 2*time.Second))
		met <- err
	}()
	closeAll(t, stuck)
	return met, ends
}

// manyUnread dials l n times from ephemeral ports. On each connection something has come in.
func manyUnread(t *testing.T, tr *reuseport.Transport, l manet.Listener, n int) []*reuseport.Conn {
	t.Helper()
	ctx := reuseport.WithPortUse(t.Context(), reuseport.NewPort)
	conns := make([]*reuseport.Conn, n)
	for i := range conns {
		c, err := tr.DialContext(ctx, tcpMultiaddr(localhost, uint16(portOf(l.Addr()))))
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*reuseport.Conn)
		end := accept(t, l)
		if _, err := end.Write([]byte("unread")); err != nil {
			t.Fatal(err)
		}
		awaitUnread(t, conns[i])
	}
	return conns
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
