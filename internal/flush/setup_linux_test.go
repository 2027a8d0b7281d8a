package flush

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport/internal/netaddr"
	"github.com/reusetransport/reuseport/internal/sockopt"
)

// This file has the helpers that more than one test file uses.

// stuck is more than the window of a peer of these tests takes.
const stuck = 64 << 10

// untimed returns a Flusher whose timer never fires: it counts as armed from the beginning. A
// sweep would claim closes beside a test that wants them all.
func untimed() *Flusher { return &Flusher{armed: true} }

// forEver is a FlushTimeout that no test meets.
const forEver = time.Minute

// newListener listens on loopback. What it accepts has a small receive buffer.
func newListener(t *testing.T) *net.TCPListener {
	t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
	}}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// connect connects to l. The peer's end is closed when the test ends. Our address is one that
// nobody else uses at the time, so that nobody else's port is in the way of a redial.
func connect(t *testing.T, l *net.TCPListener) (ours, peer *net.TCPConn) {
	t.Helper()
	port := l.Addr().(*net.TCPAddr).Port
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 2, byte(port>>8), byte(port))}}
	c, err := d.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err = l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	return c.(*net.TCPConn), peer
}

// closed makes a connection, writes n bytes and closes it as Conn.Close does, up to Add.
func closed(t *testing.T, n int) (*Closing, *net.TCPConn) {
	t.Helper()
	ours, peer := connect(t, newListener(t))
	if _, err := ours.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	return closeConn(t, ours), peer
}

// closeConn closes c as Conn.Close does, up to Add.
func closeConn(t *testing.T, c *net.TCPConn) *Closing {
	t.Helper()
	closing := &Closing{
		Laddr: netaddr.From(c.LocalAddr()), Raddr: netaddr.From(c.RemoteAddr()),
		FD: dup(t, c), FreeTuple: true, Loopback: true, Stall: forEver,
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return closing
}

// dup returns a second descriptor of c.
func dup(t *testing.T, c *net.TCPConn) (fd uintptr) {
	t.Helper()
	onSocket(t, c, func(of uintptr) (err error) {
		fd, err = sockopt.Dup(of)
		return err
	})
	return fd
}

// addClosed adds n closes with data that their peers do not read.
func addClosed(t *testing.T, f *Flusher, n int) (peers []*net.TCPConn) {
	t.Helper()
	for range n {
		c, peer := closed(t, stuck)
		f.Add(c)
		peers = append(peers, peer)
	}
	return peers
}

// deafen lets no more segments reach c: a filter on its socket drops them.
func deafen(t *testing.T, c *net.TCPConn) {
	t.Helper()
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0} // of each segment 0 bytes pass
	onSocket(t, c, func(fd uintptr) error {
		return unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop})
	})
}

// closedDeaf is closed with a peer that n bytes and the FIN do not reach.
func closedDeaf(t *testing.T, n int) (*Closing, *net.TCPConn) {
	t.Helper()
	ours, peer := connect(t, newListener(t))
	deafen(t, peer)
	if _, err := ours.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	return closeConn(t, ours), peer
}

// onSocket calls f with the descriptor of c.
func onSocket(t *testing.T, c *net.TCPConn, f func(fd uintptr) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		var inner error
		err = raw.Control(func(fd uintptr) { inner = f(fd) })
		err = errors.Join(err, inner)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The states of <netinet/tcp.h>.
const (
	stateClosed    = 7 // a reset came, or both sides have ended
	stateCloseWait = 8 // the other side's FIN came, and no reset
)

func wantState(t *testing.T, c *net.TCPConn, want uint8) {
	t.Helper()
	onSocket(t, c, func(fd uintptr) error {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil && info.State != want {
			t.Errorf("the peer is in state %d, want %d", info.State, want)
		}
		return err
	})
}

// wantAll reads n bytes and then EOF.
func wantAll(t *testing.T, peer *net.TCPConn, n int) {
	t.Helper()
	if got, err := io.ReadAll(peer); len(got) != n || err != nil {
		t.Errorf("the peer read %d of %d bytes, then %v", len(got), n, err)
	}
}

// abort resets a connection.
func abort(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if err := errors.Join(c.SetLinger(0), c.Close()); err != nil {
		t.Error(err)
	}
}

// wantPending checks how many closes the Flusher looks after.
func wantPending(t *testing.T, f *Flusher, want int) {
	t.Helper()
	if n := pending(f); n != want {
		t.Errorf("%d pending, want %d", n, want)
	}
}

func pending(f *Flusher) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.pending)
}

// await waits until is reports true, for 10 s at most.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("after 10 s still not: ", what)
		}
	}
}

// wantClosed checks that a descriptor of ours is closed. A test beside this one could have got its
// number, so a test that calls it is not parallel.
func wantClosed(t *testing.T, fd uintptr) {
	t.Helper()
	if _, err := unix.FcntlInt(fd, unix.F_GETFD, 0); err != unix.EBADF {
		t.Errorf("descriptor %d is still open: %v", fd, err)
	}
}

// unread makes n bytes come in on c that nobody reads.
func unread(t *testing.T, c, peer *net.TCPConn, n int) {
	t.Helper()
	if _, err := peer.Write(bytes.Repeat([]byte("x"), n)); err != nil {
		t.Fatal(err)
	}
	await(t, "something unread", func() (has bool) {
		onSocket(t, c, func(fd uintptr) (err error) {
			has, err = sockopt.HasUnread(fd)
			return err
		})
		return has
	})
}

// many is more connections than a sweep handles in a moment.
const many = 65
