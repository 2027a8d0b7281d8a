//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockopt_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport/internal/errno"
	"github.com/reusetransport/reuseport/internal/netaddr"
	"github.com/reusetransport/reuseport/internal/sockopt"
)

func TestSetReuse(t *testing.T) {
	for name, set := range map[string]controlFunc{
		"SetReuse": sockopt.SetReuse, "SetReuseToDial": sockopt.SetReuseToDial,
	} {
		fd := newSocket(t, unix.AF_INET)
		wantOption(t, fd, unix.SO_REUSEADDR, false)
		wantOption(t, fd, unix.SO_REUSEPORT, false)
		if err := set("tcp4", "127.0.0.1:0", rawFD(fd)); err != nil {
			t.Fatal(name, err)
		}
		wantOption(t, fd, unix.SO_REUSEADDR, true)
		wantOption(t, fd, unix.SO_REUSEPORT, true)
	}
}

func TestSetReusePort(t *testing.T) {
	fd := newSocket(t, unix.AF_INET)
	for _, on := range []bool{true, false} {
		if err := sockopt.SetReusePort(fd, on); err != nil {
			t.Fatal(err)
		}
		wantOption(t, fd, unix.SO_REUSEPORT, on)
		wantOption(t, fd, unix.SO_REUSEADDR, false)
	}
}

// TestSetExclusive: there is nothing to set, since nobody else can bind the port.
func TestSetExclusive(t *testing.T) {
	l := listen(t, "127.0.0.1:0", control(sockopt.SetExclusive))
	reuse := net.ListenConfig{Control: sockopt.SetReuse}
	if _, err := reuse.Listen(context.Background(), "tcp4", l.Addr().String()); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a second listener: %v, want EADDRINUSE", err)
	}
}

func TestSetLinger(t *testing.T) {
	fd := newSocket(t, unix.AF_INET)
	for _, reset := range []bool{true, false} {
		if err := sockopt.SetLinger(fd, reset); err != nil {
			t.Fatal(err)
		}
		wantLinger(t, fd, reset)
	}
}

func TestV6Only(t *testing.T) {
	fd := newSocket(t, unix.AF_INET6)
	for _, on := range []int{1, 0} {
		if on == 0 && runtime.GOOS == "openbsd" {
			continue // it has no dual-stack sockets
		}
		if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, on); err != nil {
			t.Fatal(err)
		}
		if got, err := sockopt.V6Only(fd); err != nil || got != (on == 1) {
			t.Errorf("V6ONLY %d: %v, %v", on, got, err)
		}
	}
}

// TestNames: a socket tells its two addresses, and no peer once the connection is gone.
func TestNames(t *testing.T) {
	c, peer := pair(t)
	local, err := sockopt.Local(c.fd)
	if err != nil {
		t.Fatal(err)
	}
	remote, err := sockopt.Peer(c.fd)
	if err != nil || local != netaddr.From(peer.RemoteAddr()) || remote != netaddr.From(peer.LocalAddr()) {
		t.Errorf("%v to %v, %v, want %v to %v", local, remote, err, peer.RemoteAddr(), peer.LocalAddr())
	}
	if err := errors.Join(peer.SetLinger(0), peer.Close()); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if _, err = sockopt.Peer(c.fd); err != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !errors.Is(err, syscall.ENOTCONN) {
		t.Errorf("after a reset: %v, want ENOTCONN", err)
	}
}

// TestUnacked: what the peer does not read stays unacknowledged once its window is full.
func TestUnacked(t *testing.T) {
	c, peer := pair(t)
	n, err := sockopt.Unacked(c.fd)
	if errors.Is(err, errors.ErrUnsupported) && (runtime.GOOS == "openbsd" || runtime.GOOS == "dragonfly") {
		return
	}
	if err != nil || n != 0 {
		t.Fatalf("nothing written: %d, %v", n, err)
	}
	written := fill(t, c.fd)
	if n, err := sockopt.Unacked(c.fd); err != nil || n <= 0 || n > written {
		t.Errorf("%d written: %d, %v", written, n, err)
	}
	drain(t, peer.fd, written)
	eventually(t, "all acknowledged", func() bool {
		n, err := sockopt.Unacked(c.fd)
		return err == nil && n == 0
	})
}

func TestHasUnread(t *testing.T) {
	c, peer := pair(t)
	if unread, err := sockopt.HasUnread(c.fd); err != nil || unread {
		t.Errorf("nothing sent: %v, %v", unread, err)
	}
	write(t, peer.fd, "a")
	eventually(t, "unread", func() bool {
		unread, err := sockopt.HasUnread(c.fd)
		return err == nil && unread
	})
	drain(t, c.fd, 1)
	if unread, err := sockopt.HasUnread(c.fd); err != nil || unread {
		t.Errorf("all read: %v, %v", unread, err)
	}
	if err := peer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	awaitFIN(t, c.fd)
	if unread, err := sockopt.HasUnread(c.fd); err != nil || unread {
		t.Errorf("a FIN: %v, %v", unread, err)
	}
}

func TestDiscard(t *testing.T) {
	c, peer := pair(t)
	buf := make([]byte, 10)
	if n, err := sockopt.Discard(c.fd, buf); n != 0 || err != nil {
		t.Errorf("nothing sent: %d, %v", n, err)
	}
	write(t, peer.fd, "abc")
	drain(t, c.fd, 3)
	if err := peer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	awaitFIN(t, c.fd)
	if n, err := sockopt.Discard(c.fd, buf); n != 0 || err != io.EOF {
		t.Errorf("a FIN: %d, %v", n, err)
	}
}

// TestReset: Discard reads the peer's reset as an error and counts no bytes, and
// ShutdownWrite then finds no connection.
func TestReset(t *testing.T) {
	c, peer := pair(t)
	if err := errors.Join(peer.SetLinger(0), peer.Close()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the reset", func() bool {
		n, err := sockopt.Discard(c.fd, make([]byte, 1))
		if n != 0 || err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Fatalf("%d, %v", n, err)
		}
		return err != nil
	})
	if err := sockopt.ShutdownWrite(c.fd); !errno.IsNotConnected(err) {
		t.Errorf("got %v, want ENOTCONN", err)
	}
}

func TestShutdownWrite(t *testing.T) {
	c, peer := pair(t)
	write(t, c.fd, "abc")
	if err := sockopt.ShutdownWrite(c.fd); err != nil {
		t.Fatal(err)
	}
	drain(t, peer.fd, 3)
	awaitFIN(t, peer.fd)
	if _, err := unix.Write(int(c.fd), []byte("d")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("write after the FIN: %v, want EPIPE", err)
	}
}

// TestDup: the connection lives as long as the second descriptor, and Close ends it.
func TestDup(t *testing.T) {
	c, peer := pair(t)
	dup, err := sockopt.Dup(c.fd)
	if err != nil {
		t.Fatal(err)
	}
	flags, err := unix.FcntlInt(dup, unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x, %v, want FD_CLOEXEC", flags, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, dup, "abc")
	drain(t, peer.fd, 3)
	if err := sockopt.Close(dup); err != nil {
		t.Fatal(err)
	}
	awaitFIN(t, peer.fd)
}

func TestClosedDescriptor(t *testing.T) {
	fd := closedFD(t)
	for name, call := range map[string]func() error{
		"SetReusePort":  func() error { return sockopt.SetReusePort(fd, true) },
		"SetLinger":     func() error { return sockopt.SetLinger(fd, true) },
		"V6Only":        func() error { _, err := sockopt.V6Only(fd); return err },
		"HasUnread":     func() error { _, err := sockopt.HasUnread(fd); return err },
		"Discard":       func() error { _, err := sockopt.Discard(fd, make([]byte, 1)); return err },
		"ShutdownWrite": func() error { return sockopt.ShutdownWrite(fd) },
		"Dup":           func() error { _, err := sockopt.Dup(fd); return err },
		"Close":         func() error { return sockopt.Close(fd) },
	} {
		wantEBADF(t, name, call())
	}
	if err := sockopt.SetReuse("tcp4", "", rawFD(fd)); !errors.Is(err, unix.EBADF) {
		t.Errorf("SetReuse: %v, want EBADF", err)
	}
}

func TestDescriptorLimit(t *testing.T) {
	var want unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &want); err != nil {
		t.Fatal(err)
	}
	if got, err := sockopt.DescriptorLimit(); err != nil || got != uint64(want.Cur) {
		t.Errorf("%d, %v; want %d", got, err, want.Cur)
	}
}

func wantEBADF(t *testing.T, name string, err error) {
	t.Helper()
	var call *os.SyscallError
	if !errors.As(err, &call) || !errors.Is(err, unix.EBADF) {
		t.Errorf("%s: %v, want an *os.SyscallError of EBADF", name, err)
	}
}

// rawFD is a descriptor as a syscall.RawConn.
type rawFD uintptr

func (fd rawFD) Control(f func(uintptr)) error  { f(uintptr(fd)); return nil }
func (fd rawFD) Read(func(uintptr) bool) error  { return errors.ErrUnsupported }
func (fd rawFD) Write(func(uintptr) bool) error { return errors.ErrUnsupported }

func newSocket(t *testing.T, family int) uintptr {
	t.Helper()
	fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) }) // only cleans up
	return uintptr(fd)
}

// closedFD returns the number of a descriptor that is closed, and above those that
// others may open meanwhile.
func closedFD(t *testing.T) uintptr {
	t.Helper()
	fd, err := unix.FcntlInt(newSocket(t, unix.AF_INET), unix.F_DUPFD_CLOEXEC, 200)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	return uintptr(fd)
}

type controlFunc func(network, address string, c syscall.RawConn) error

// control makes set a function for net.ListenConfig.Control.
func control(set func(fd uintptr) error) controlFunc {
	return func(_, _ string, c syscall.RawConn) error {
		var opt error
		err := c.Control(func(fd uintptr) { opt = set(fd) })
		return errors.Join(err, opt)
	}
}

func listen(t *testing.T, address string, control controlFunc) *net.TCPListener {
	t.Helper()
	lc := net.ListenConfig{Control: control}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // only cleans up
	return l.(*net.TCPListener)
}

// end is one end of a connection. Its descriptor does not block.
type end struct {
	*net.TCPConn
	fd uintptr
}

// pair returns the two ends of a loopback connection.
func pair(t *testing.T) (dialed, accepted end) {
	t.Helper()
	return connect(t, listen(t, "127.0.0.1:0", nil))
}

func connect(t *testing.T, l *net.TCPListener) (dialed, accepted end) {
	t.Helper()
	out, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	dialed = newEnd(t, out)
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return dialed, newEnd(t, in)
}

// newEnd keeps the descriptor open until the test ends.
func newEnd(t *testing.T, c net.Conn) end {
	t.Helper()
	t.Cleanup(func() { _ = c.Close() }) // only cleans up
	e := end{TCPConn: c.(*net.TCPConn)}
	raw, err := e.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { e.fd = fd }); err != nil {
		t.Fatal(err)
	}
	return e
}

func wantOption(t *testing.T, fd uintptr, option int, want bool) {
	t.Helper()
	if got, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option); err != nil || (got != 0) != want {
		t.Errorf("option %#x is %d, %v, want %v", option, got, err, want)
	}
}

// wantLinger: SO_LINGER is on with zero seconds, or off.
func wantLinger(t *testing.T, fd uintptr, want bool) {
	t.Helper()
	l, err := unix.GetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER)
	if err != nil || (l.Onoff != 0) != want || l.Linger != 0 {
		t.Errorf("SO_LINGER is %+v, %v, want on: %v", l, err, want)
	}
}

func write(t *testing.T, fd uintptr, s string) {
	t.Helper()
	if n, err := unix.Write(int(fd), []byte(s)); n != len(s) || err != nil {
		t.Fatalf("wrote %d: %v", n, err)
	}
}

// fill writes until the send buffer is full and returns how much it took.
func fill(t *testing.T, fd uintptr) (written int) {
	t.Helper()
	for range 10000 {
		n, err := unix.Write(int(fd), make([]byte, 64<<10))
		if errors.Is(err, unix.EAGAIN) {
			return written
		}
		if err != nil {
			t.Fatal(err)
		}
		written += n
	}
	t.Fatal("the send buffer has no end")
	return 0
}

// drain discards want bytes.
func drain(t *testing.T, fd uintptr, want int) {
	t.Helper()
	buf := make([]byte, 64<<10)
	eventually(t, "the bytes", func() bool {
		n, err := sockopt.Discard(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		want -= n
		return want <= 0
	})
	if want < 0 {
		t.Errorf("%d bytes too many", -want)
	}
}

// awaitFIN waits for the peer's FIN and leaves it to be read.
func awaitFIN(t *testing.T, fd uintptr) {
	t.Helper()
	eventually(t, "the FIN", func() bool {
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return n == 0 && err == nil
	})
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("not in 5 s: %s", what)
		}
		time.Sleep(time.Millisecond / 4)
	}
}
