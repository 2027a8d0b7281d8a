package reuseport_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
)

// linuxRoles are the roles that only Linux has, see roles.
var linuxRoles = map[string]role{
	"sink":      childSink,
	"dials":     childDials,
	"inherit":   childInherit,
	"noAddress": childNoAddress,
	"specific":  childSpecific,
	"probe":     childProbe,
	"bare":      childBare,
	"answer":    childAnswer,
	"live":      childLive,
	"drop":      childDrop,
}

// insideVariable is set in a process that runs one test again, see apart.
const insideVariable = "REUSEPORT_TEST_INSIDE"

// apart reports whether a test runs in a process of its own. If not, it runs the test in one
// and takes over the result.
func apart(t *testing.T) bool {
	t.Helper()
	return os.Getenv(insideVariable) != "" || runAgain(t, nil)
}

// alone is apart, in a network namespace of its own. All of 10/8 is on its loopback interface:
// to Close these addresses are beyond loopback.
func alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideVariable) == "" {
		return runAgain(t, ownNetwork())
	}
	if err := setLoopback([]byte{10, 0, 0, 1}); err != nil {
		t.Fatal(err)
	}
	return true
}

// runAgain runs a test in a new process and returns false.
func runAgain(t *testing.T, attr *syscall.SysProcAttr) bool {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=10m",
		fmt.Sprintf("-test.short=%t", testing.Short()), fmt.Sprintf("-soak=%t", *soak))
	cmd.Env = append(childEnv(""), insideVariable+"=1")
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, os.ErrPermission):
		skip(t, "no process of this kind may start: %v", err)
	case err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()+" "):
		t.Errorf("in a process of its own: %v\n%s", err, out)
	default:
		t.Logf("in a process of its own:\n%s", out)
	}
	return false
}

// ownNetwork starts a process in a network namespace of its own, which has no address.
func ownNetwork() *syscall.SysProcAttr {
	uid := os.Getuid()
	if uid == 0 {
		return &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	}
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNET | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: uid, Size: 1}}, // root there
	}
}

// silentListener returns the address of a listener that no SYN reaches.
func silentListener(t testing.TB) ma.Multiaddr {
	t.Helper()
	return tcpMultiaddr(ownIP(), silentOn(t, ownIP()))
}

// silentOn returns the port of a listener on ip that no SYN reaches: a filter on its socket
// drops each segment.
func silentOn(t testing.TB, ip netip.Addr) (port uint16) {
	t.Helper()
	return silentAt(t, netip.AddrPortFrom(ip, 0))
}

// silentAt is silentOn for a port, or 0.
func silentAt(t testing.TB, at netip.AddrPort) (port uint16) {
	t.Helper()
	drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}} // of each segment 0 bytes pass
	l, err := listenFiltered(t.Context(), at.String(), drop)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return uint16(portOf(l.Addr()))
}

// listenFiltered listens with a filter on the socket, which sees each segment from its TCP header
// on.
func listenFiltered(ctx context.Context, address string, filter []unix.SockFilter) (net.Listener, error) {
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return withFD(c, func(fd int) error {
			return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog)
		})
	}}
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, "tcp", address)
}

// withFD calls f with the descriptor of a socket.
func withFD(c syscall.RawConn, f func(fd int) error) error {
	var inner error
	err := c.Control(func(fd uintptr) { inner = f(int(fd)) })
	return errors.Join(err, inner)
}

// onSocket calls f with the descriptor of c, which is a connection or a listener.
func onSocket(t testing.TB, c any, f func(fd int) error) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err == nil {
		err = withFD(raw, f)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// lingersZero reports whether SO_LINGER is on with zero seconds.
func lingersZero(c *reuseport.Conn) (bool, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false, err
	}
	var l *unix.Linger
	err = withFD(raw, func(fd int) (err error) {
		l, err = unix.GetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER)
		return err
	})
	return err == nil && l.Onoff != 0 && l.Linger == 0, err
}

// outq returns how many bytes of c, its FIN among them, are not acknowledged.
func outq(t testing.TB, c net.Conn) (n int) {
	t.Helper()
	onSocket(t, c, func(fd int) (err error) {
		n, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		return err
	})
	return n
}

// inq returns how many bytes have come in on c that nobody has read.
func inq(t testing.TB, c net.Conn) (n int) {
	t.Helper()
	onSocket(t, c, func(fd int) (err error) {
		n, err = unix.IoctlGetInt(fd, unix.TIOCINQ)
		return err
	})
	return n
}

// awaitUnread waits until something has come in that nobody has read.
func awaitUnread(t testing.TB, c net.Conn) {
	t.Helper()
	await(t, "something unread", func() bool { return inq(t, c) > 0 })
}

// shutSocket ends a listening socket under its listener, as a system that suspends does.
func shutSocket(t testing.TB, l any) {
	t.Helper()
	onSocket(t, l, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) })
}

// withSpareDescriptors calls f while n more descriptors are to be had.
func withSpareDescriptors(t testing.TB, n int, f func()) {
	t.Helper()
	undo, err := limitDescriptors(n)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := undo(); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}

// limitDescriptors leaves n more descriptors, of this process, until undo is called.
func limitDescriptors(n int) (undo func() error, err error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, err
	}
	next, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0) // the lowest free one
	if err != nil {
		return nil, err
	}
	low := limit
	low.Cur = uint64(next + n)
	if err := errors.Join(unix.Close(next), unix.Setrlimit(unix.RLIMIT_NOFILE, &low)); err != nil {
		return nil, err
	}
	return func() error { return unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) }, nil
}

// fillGaps opens descriptors until the next one is the highest, so that after limitDescriptors one
// that is closed can be had again.
func fillGaps() (undo func(), err error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	highest := 0
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil {
			highest = max(highest, fd)
		}
	}
	var opened []int
	undo = func() {
		for _, fd := range opened {
			unix.Close(fd)
		}
	}
	for fd := 0; fd <= highest; {
		if fd, err = unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			undo()
			return nil, err
		}
		opened = append(opened, fd)
	}
	return undo, nil
}

// stuckPeer listens on all IPv4 addresses and reads nothing. Its receive buffer is small, so
// that 64 kB do not go through.
func stuckPeer(t testing.TB) (*net.TCPListener, uint16) {
	t.Helper()
	lc := net.ListenConfig{Control: smallBuffer}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), "tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener), uint16(portOf(l.Addr()))
}

// smallBuffer makes the receive buffer of a socket small.
func smallBuffer(_, _ string, c syscall.RawConn) error {
	return withFD(c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
}

// writeTo dials a stuckPeer and writes n bytes.
func writeTo(t testing.TB, tr *reuseport.Transport, l *net.TCPListener, port uint16, n int) (*reuseport.Conn, net.Conn) {
	t.Helper()
	c := dialOnce(t, tr, tcpMultiaddr(localhost, port))
	end, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end.Close() })
	if _, err := c.Write(pattern(n)); err != nil {
		t.Fatal(err)
	}
	return c, end
}

// closeUnread closes c, which its peer has told something that nobody reads, so that the
// close is not over at once.
func closeUnread(t testing.TB, c, peer *reuseport.Conn) {
	t.Helper()
	if _, err := peer.Write([]byte("unread")); err != nil {
		t.Fatal(err)
	}
	awaitUnread(t, c)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// talk lets c send a byte each 100 ms until it fails or the test ends.
func talk(t testing.TB, c *reuseport.Conn) <-chan error {
	failed := make(chan error, 1)
	go func() {
		for {
			if _, err := c.Write([]byte("x")); err != nil {
				failed <- err
				return
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-t.Context().Done():
				failed <- nil
				return
			}
		}
	}()
	return failed
}
