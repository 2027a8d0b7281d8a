package sockopt_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport/internal/sockopt"
)

// TestSetKeepAlive: what is set is what package net sets.
func TestSetKeepAlive(t *testing.T) {
	c, _ := pair(t)
	fd := newSocket(t, unix.AF_INET)
	if err := sockopt.SetKeepAlive(fd); err != nil {
		t.Fatal(err)
	}
	for _, opt := range [][2]int{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT},
	} {
		want, errNet := unix.GetsockoptInt(int(c.fd), opt[0], opt[1])
		got, err := unix.GetsockoptInt(int(fd), opt[0], opt[1])
		if got != want || want == 0 || err != nil || errNet != nil {
			t.Errorf("level %d option %d is %d, %v, want %d, %v", opt[0], opt[1], got, err, want, errNet)
		}
	}
}

// TestUnackedFIN: Unacked counts a FIN that is not acknowledged as one byte, and
// nothing once it is. The window is shut, so that the FIN cannot even leave.
func TestUnackedFIN(t *testing.T) {
	c, peer, window := shutWindow(t)
	if err := sockopt.ShutdownWrite(c.fd); err != nil {
		t.Fatal(err)
	}
	if n, err := sockopt.Unacked(c.fd); err != nil || n != sockopt.FINUnacked {
		t.Errorf("after the FIN: %d, %v", n, err)
	}
	drain(t, peer.fd, window)
	awaitFIN(t, peer.fd)
	awaitUnacked(t, c, 0)
}

// TestFINUnderway: a FIN that has left is still unacknowledged. The peer's kernel puts
// the acknowledgement off by 40 ms; more than one try is for a machine that is slower.
func TestFINUnderway(t *testing.T) {
	for range 20 {
		c, _ := pair(t)
		if err := sockopt.ShutdownWrite(c.fd); err != nil {
			t.Fatal(err)
		}
		sent, errSent := sockopt.FINSent(c.fd)
		n, err := sockopt.Unacked(c.fd)
		if err := errors.Join(errSent, err); err != nil {
			t.Fatal(err)
		}
		if sent && n == sockopt.FINUnacked {
			return
		}
	}
	t.Error("no FIN was seen sent and not acknowledged")
}

// TestFINSent: a FIN waits behind a window that is shut.
func TestFINSent(t *testing.T) {
	c, peer, window := shutWindow(t)
	if sent, err := sockopt.FINSent(c.fd); err != nil || !sent {
		t.Errorf("nothing waits to be sent: %v, %v", sent, err)
	}
	if err := sockopt.ShutdownWrite(c.fd); err != nil {
		t.Fatal(err)
	}
	if sent, err := sockopt.FINSent(c.fd); err != nil || sent {
		t.Errorf("the window is shut: %v, %v", sent, err)
	}
	drain(t, peer.fd, window)
	eventually(t, "the FIN sent", func() bool {
		sent, err := sockopt.FINSent(c.fd)
		return err == nil && sent
	})
}

// TestTrafficAges: the times run while nothing is sent, and begin anew with each segment and
// each acknowledgement.
func TestTrafficAges(t *testing.T) {
	c, peer := pair(t)
	time.Sleep(30 * time.Millisecond)
	idle, err := sockopt.TrafficOf(c.fd)
	if err != nil || idle.SinceACK < 20*time.Millisecond || idle.SinceSent < 20*time.Millisecond {
		t.Errorf("an idle connection: %+v, %v", idle, err)
	}
	write(t, c.fd, "abc")
	drain(t, peer.fd, 3)
	eventually(t, "the acknowledgement", func() bool {
		now, err := sockopt.TrafficOf(c.fd)
		return err == nil && now.SinceACK < 20*time.Millisecond && now.SinceSent < 20*time.Millisecond
	})
}

// TestPeerEnded: our own half-closes are not the peer's end; its FIN and its reset are.
func TestPeerEnded(t *testing.T) {
	wantEnded := func(when string, c end, want bool) {
		t.Helper()
		eventually(t, when, func() bool {
			traffic, err := sockopt.TrafficOf(c.fd)
			return err == nil && traffic.PeerEnded == want
		})
	}
	for _, reset := range []bool{false, true} {
		c, peer := pair(t)
		if err := errors.Join(c.CloseRead(), c.CloseWrite()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond) // until the peer has our FIN
		wantEnded("half-closed by us", c, false)
		if reset {
			if err := peer.SetLinger(0); err != nil {
				t.Fatal(err)
			}
		}
		peer.Close()
		wantEnded("the peer's end", c, true)
	}
	c, peer := pair(t)
	if err := peer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	wantEnded("the peer's FIN", c, true)
}

// TestTrafficOf: the peer's first byte, read or not, and its FIN count as received, and an
// acknowledgement does not. What waits behind a shut window is written, and not all sent. Both
// sides of a connection on this host use timestamps, or none.
func TestTrafficOf(t *testing.T) {
	sysctl, err := os.ReadFile("/proc/sys/net/ipv4/tcp_timestamps")
	if err != nil {
		t.Fatal(err)
	}
	timestamps := strings.TrimSpace(string(sysctl)) != "0"
	for what, speak := range map[string]func(peer end){
		"a byte": func(peer end) { write(t, peer.fd, "a") },
		"a FIN": func(peer end) {
			if err := peer.CloseWrite(); err != nil {
				t.Fatal(err)
			}
		},
	} {
		c, peer := pair(t)
		wantTraffic(t, "nothing", c, sockopt.Traffic{AllSent: true, Timestamps: timestamps})
		write(t, c.fd, "abc")
		drain(t, peer.fd, 3)
		wantTraffic(t, "abc", c, sockopt.Traffic{Written: true, AllSent: true, Timestamps: timestamps})
		speak(peer)
		wantTraffic(t, what, c, sockopt.Traffic{Received: true, Written: true, AllSent: true, Timestamps: timestamps})
	}
	c, _ := pair(t)
	fill(t, c.fd)
	wantTraffic(t, "more than fits", c, sockopt.Traffic{Written: true, Timestamps: timestamps})
}

// wantTraffic waits until c has carried what is wanted.
func wantTraffic(t *testing.T, what string, c end, want sockopt.Traffic) {
	t.Helper()
	eventually(t, what, func() bool {
		got, err := sockopt.TrafficOf(c.fd)
		got.SinceSent, got.SinceACK, got.PeerEnded = 0, 0, want.PeerEnded // TestTrafficAges, TestPeerEnded
		return got == want && err == nil
	})
}

// TestLimitSYNs reads back what LimitSYNs sets: one repeat. TestHandOver in lab counts SYNs.
func TestLimitSYNs(t *testing.T) {
	c, _ := pair(t)
	if err := sockopt.LimitSYNs(c.fd); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.GetsockoptInt(int(c.fd), unix.IPPROTO_TCP, unix.TCP_SYNCNT); n != 1 || err != nil {
		t.Errorf("%d repeats, %v; want 1", n, err)
	}
}

// TestDropAll: nothing arrives any more.
func TestDropAll(t *testing.T) {
	c, peer := pair(t)
	if err := sockopt.DropAll(c.fd); err != nil {
		t.Fatal(err)
	}
	write(t, peer.fd, "lost")
	time.Sleep(20 * time.Millisecond)
	if unread, err := sockopt.HasUnread(c.fd); unread || err != nil {
		t.Errorf("something arrived: %v, %v", unread, err)
	}
}

// TestSharesPort reads back what SetReusePort sets.
func TestSharesPort(t *testing.T) {
	c, _ := pair(t)
	for _, want := range []bool{true, false} {
		if err := sockopt.SetReusePort(c.fd, want); err != nil {
			t.Fatal(err)
		}
		if on, err := sockopt.SharesPort(c.fd); on != want || err != nil {
			t.Errorf("%v, %v, want %v", on, err, want)
		}
	}
}

// TestBindToInterface reads back what it sets. A socket is bound to no interface at first.
func TestBindToInterface(t *testing.T) {
	c, _ := pair(t)
	if index, err := sockopt.BoundInterface(c.fd); index != 0 || err != nil {
		t.Errorf("at first bound to %d, %v", index, err)
	}
	const loopback = 1 // its index in every network namespace
	if err := sockopt.BindToInterface(c.fd, loopback); err != nil {
		t.Fatal(err)
	}
	if index, err := sockopt.BoundInterface(c.fd); index != loopback || err != nil {
		t.Errorf("bound to %d, %v, want %d", index, err, loopback)
	}
}

// TestOwner: a socket belongs to the user that made it, and to whom fchown gave it.
func TestOwner(t *testing.T) {
	c, _ := pair(t)
	if uid, err := sockopt.Owner(c.fd); err != nil || int(uid) != os.Geteuid() {
		t.Errorf("owner %d, %v, want %d", uid, err, os.Geteuid())
	}
	if os.Geteuid() != 0 {
		return
	}
	const nobody = 65534
	if err := unix.Fchown(int(c.fd), nobody, -1); err != nil {
		t.Fatal(err)
	}
	if uid, err := sockopt.Owner(c.fd); err != nil || uid != nobody {
		t.Errorf("after fchown owner %d, %v", uid, err)
	}
}

// TestGiveToFirst: a later listener of the group gets no connection, whether the group
// was made before bind or is that of a socket which listens already.
func TestGiveToFirst(t *testing.T) {
	guard := control(func(fd uintptr) error {
		return errors.Join(sockopt.SetReusePort(fd, true), sockopt.GiveToFirst(fd), sockopt.SetReusePort(fd, false))
	})
	for name, open := range map[string]func(*testing.T) *net.TCPListener{
		"before bind": func(t *testing.T) *net.TCPListener {
			l := listen(t, "127.0.0.1:0", guard)
			onListener(t, l, func(fd uintptr) error { return sockopt.SetReusePort(fd, true) })
			return l
		},
		"after listen": func(t *testing.T) *net.TCPListener {
			l := listen(t, "127.0.0.1:0", sockopt.SetReuse)
			onListener(t, l, sockopt.GiveToFirst)
			return l
		},
	} {
		t.Run(name, func(t *testing.T) {
			first := open(t)
			second := listen(t, first.Addr().String(), sockopt.SetReuse)
			wantAll(t, first, second, 50)
		})
	}
}

// TestGiveToFirstNoGroup: without SO_REUSEPORT there is no group.
func TestGiveToFirstNoGroup(t *testing.T) {
	fd := newSocket(t, unix.AF_INET)
	if err := sockopt.GiveToFirst(fd); !errors.Is(err, unix.EINVAL) {
		t.Errorf("got %v, want EINVAL", err)
	}
}

// wantAll makes n connections to the address of both listeners. The first gets all.
func wantAll(t *testing.T, first, second *net.TCPListener, n int) {
	t.Helper()
	for range n {
		c, err := net.Dial("tcp4", first.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if err := first.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		c, err := first.Accept()
		if err != nil {
			t.Fatalf("the first listener got %d of %d: %v", i, n, err)
		}
		defer c.Close()
	}
	if err := second.SetDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the second listener: %v, want no connection", err)
	}
}

// TestBindOnce: it gets in beside a listener of ours, and leaves nothing behind.
func TestBindOnce(t *testing.T) {
	l := listen(t, fmt.Sprintf("127.0.0.1:%d", 11000+os.Getpid()%8000), nil) // no connection has such a port
	onListener(t, l, func(fd uintptr) error { return sockopt.SetReusePort(fd, true) })
	before := openDescriptors(t)
	if err := sockopt.BindOnce(portOf(l)); err != nil {
		t.Error(err)
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	listen(t, l.Addr().String(), nil) // fails if something holds the port
}

// TestBindOnceStranger: somebody else has the port on one of the addresses.
func TestBindOnceStranger(t *testing.T) {
	for _, address := range []string{"127.0.0.2:0", "[::1]:0"} {
		err := sockopt.BindOnce(portOf(listen(t, address, nil)))
		var call *os.SyscallError
		if !errors.As(err, &call) || call.Syscall != "bind" || !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("%s is taken: %v, want EADDRINUSE of bind", address, err)
		}
	}
}

func TestClosedDescriptorLinux(t *testing.T) {
	fd := closedFD(t)
	for name, call := range map[string]func() error{
		"SetKeepAlive": func() error { return sockopt.SetKeepAlive(fd) },
		"GiveToFirst":  func() error { return sockopt.GiveToFirst(fd) },
		"Unacked":      func() error { _, err := sockopt.Unacked(fd); return err },
		"TrafficOf": func() error {
			traffic, err := sockopt.TrafficOf(fd)
			if traffic != (sockopt.Traffic{}) {
				t.Errorf("TrafficOf: %+v", traffic)
			}
			return err
		},
		"FINSent": func() error { _, err := sockopt.FINSent(fd); return err },
		"DropAll": func() error { return sockopt.DropAll(fd) },
		"SharesPort": func() error {
			_, err := sockopt.SharesPort(fd)
			return err
		},
		"BoundInterface": func() error {
			_, err := sockopt.BoundInterface(fd)
			return err
		},
		"BindToInterface": func() error { return sockopt.BindToInterface(fd, 1) },
		"Owner":           func() error { _, err := sockopt.Owner(fd); return err },
	} {
		wantEBADF(t, name, call())
	}
	if err := sockopt.SetReuseToDial("tcp4", "", rawFD(fd)); err != nil {
		t.Errorf("SetReuseToDial: %v, want none", err)
	}
}

// TestNoAllocs: what a dial and a close call does not allocate.
func TestNoAllocs(t *testing.T) {
	c, _ := pair(t)
	raw := syscall.RawConn(rawFD(c.fd))
	for name, call := range map[string]func() error{
		"SetReuseToDial": func() error { return sockopt.SetReuseToDial("tcp4", "", raw) },
		"SetKeepAlive":   func() error { return sockopt.SetKeepAlive(c.fd) },
		"SetLinger":      func() error { return sockopt.SetLinger(c.fd, false) },
		"Unacked":        func() error { _, err := sockopt.Unacked(c.fd); return err },
		"TrafficOf":      func() error { _, err := sockopt.TrafficOf(c.fd); return err },
		"HasUnread":      func() error { _, err := sockopt.HasUnread(c.fd); return err },
		"FINSent":        func() error { _, err := sockopt.FINSent(c.fd); return err },
		"Dup and Close": func() error {
			dup, err := sockopt.Dup(c.fd)
			return errors.Join(err, sockopt.Close(dup))
		},
		"ShutdownWrite": func() error { return sockopt.ShutdownWrite(c.fd) },
	} {
		n := testing.AllocsPerRun(100, func() {
			if err := call(); err != nil {
				t.Fatal(name, err)
			}
		})
		if n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

// shutWindow returns a connection whose peer reads nothing and has been sent exactly
// what its window takes: all is acknowledged, and not even a FIN may leave.
func shutWindow(t *testing.T) (c, peer end, window int) {
	t.Helper()
	l := listen(t, "127.0.0.1:0", control(func(fd uintptr) error {
		return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
	}))
	const tooMuch = 64 << 10
	probe, _ := connect(t, l)
	write(t, probe.fd, string(make([]byte, tooMuch)))
	time.Sleep(100 * time.Millisecond) // until the window is full
	n, err := sockopt.Unacked(probe.fd)
	if err != nil {
		t.Fatal(err)
	}
	window = tooMuch - n
	c, peer = connect(t, l)
	write(t, c.fd, string(make([]byte, window)))
	awaitUnacked(t, c, 0)
	return c, peer, window
}

func awaitUnacked(t *testing.T, c end, want int) {
	t.Helper()
	eventually(t, "acknowledged", func() bool {
		n, err := sockopt.Unacked(c.fd)
		return err == nil && n == want
	})
}

func onListener(t *testing.T, l *net.TCPListener, set func(fd uintptr) error) {
	t.Helper()
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := control(set)("", "", raw); err != nil {
		t.Fatal(err)
	}
}

func portOf(l *net.TCPListener) uint16 { return uint16(l.Addr().(*net.TCPAddr).Port) }

func openDescriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
