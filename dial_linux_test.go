package reuseport_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	goreuseport "github.com/libp2p/go-reuseport"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
)

// fullListener is the address of a listener whose accept queue is full: Linux
// drops further SYNs.
func fullListener(t testing.TB) ma.Multiaddr {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	ip := ownIP()
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: ip.As4()}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(sa.(*unix.SockaddrInet4).Port)
	for range 3 { // a backlog of 0 takes one
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(ip, port).String(), 100*time.Millisecond)
		if err != nil {
			break
		}
		t.Cleanup(func() { c.Close() })
	}
	return tcpMultiaddr(ip, port)
}

func setUser(uid int) error { return syscall.Setuid(uid) }

// lingersZero says whether SO_LINGER is on with zero seconds.
func lingersZero(c *reuseport.Conn) (bool, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false, err
	}
	var l *unix.Linger
	if cerr := raw.Control(func(fd uintptr) {
		l, err = unix.GetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER)
	}); cerr != nil || err != nil {
		return false, errors.Join(cerr, err)
	}
	return l.Onoff != 0 && l.Linger == 0, nil
}

// TestLingerZero reads SO_LINGER of dialed and accepted connections.
func TestLingerZero(t *testing.T) {
	for _, shared := range []bool{false, true} {
		us, them := reuseport.Transport{Shared: shared}, reuseport.Transport{Shared: shared}
		listen(t, &us, "/ip4/127.0.0.1/tcp/0")
		l := listen(t, &them, "/ip4/127.0.0.1/tcp/0")
		out := dial(t, &us, l.Multiaddr())
		for name, c := range map[string]*reuseport.Conn{"dialed": out, "accepted": accept(t, l)} {
			if zero, err := lingersZero(c); err != nil || !zero {
				t.Errorf("shared %t: %s connection lingers zero: %t (%v)", shared, name, zero, err)
			}
		}
		second := dial(t, &us, l.Multiaddr())
		if zero, err := lingersZero(second); err != nil || second.Reused() || zero {
			t.Errorf("fallback: reused %t, lingers zero: %t (%v)", second.Reused(), zero, err)
		}
	}
}

// TestLingerFromTheFirst listens while others connect all the time, as at a
// restart under load: a connection that arrives the moment after listen has
// SO_LINGER 0 as all others do.
func TestLingerFromTheFirst(t *testing.T) {
	addr := tcpMultiaddr(ownIP(), ownPort())
	knockAllTheTime(t, addr)
	without := 0
	for range 1000 {
		var tr reuseport.Transport
		l := listen(t, &tr, addr.String())
		c := accept(t, l)
		if zero, err := lingersZero(c); err != nil || !zero {
			without++
		}
		c.Abort()
		l.Close()
	}
	if without > 0 {
		t.Errorf("%d of 1000 first connections have no SO_LINGER 0", without)
	}
}

// knockAllTheTime connects to addr from a few goroutines until the test ends.
func knockAllTheTime(t *testing.T, addr ma.Multiaddr) {
	_, address, err := manet.DialArgs(addr)
	if err != nil {
		t.Fatal(err)
	}
	var done atomic.Bool
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for !done.Load() {
				if c, err := net.DialTimeout("tcp", address, time.Second); err == nil {
					c.Close()
				}
			}
		})
	}
	t.Cleanup(func() { done.Store(true); wg.Wait() })
}

// TestJoinerGetsNothing pins what a later SO_REUSEPORT listener of the same user
// can take: nothing on our address, all on a more specific one, what is left when
// we close.
func TestJoinerGetsNothing(t *testing.T) {
	for _, row := range []struct {
		ours, joiner, target string
		most, least          int32
	}{
		{"127.0.0.1", "127.0.0.1", "127.0.0.1", 0, 0},
		{"0.0.0.0", "0.0.0.0", "127.0.0.1", 0, 0},
		{"0.0.0.0", "127.0.0.1", "127.0.0.1", 400, 400},
	} {
		t.Run(row.ours+" "+row.joiner, func(t *testing.T) {
			var tr reuseport.Transport
			l := listen(t, &tr, "/ip4/"+row.ours+"/tcp/0")
			var ours, theirs atomic.Int32
			go countAccepts(l, &ours)
			port := strconv.Itoa(portOf(l.Addr()))
			joiner, err := goreuseport.Listen("tcp4", net.JoinHostPort(row.joiner, port))
			if err != nil {
				t.Fatal(err)
			}
			defer joiner.Close()
			go countPlain(joiner, &theirs)
			for range 400 {
				c, err := net.Dial("tcp", net.JoinHostPort(row.target, port))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
			}
			for range 100 {
				if ours.Load()+theirs.Load() == 400 {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			if n := theirs.Load(); n > row.most || n < row.least || ours.Load()+n != 400 {
				t.Errorf("joiner got %d, we got %d of 400", n, ours.Load())
			}
		})
	}
}

func countPlain(l net.Listener, n *atomic.Int32) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		n.Add(1)
		defer c.Close()
	}
}

// TestGuardSurvivesRestartAndHandles: with the guard's program on the port, a
// second handle still shares the socket, and after a restart connections arrive.
func TestGuardSurvivesRestartAndHandles(t *testing.T) {
	addr := tcpMultiaddr(ownIP(), ownPort())
	for range 20 {
		var tr reuseport.Transport
		one := listen(t, &tr, addr.String())
		two := listen(t, &tr, addr.String())
		one.Close()
		c, err := net.Dial("tcp", two.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		accept(t, two)
		c.Close()
		two.Close()
	}
}

// TestBindStaysFlat measures bind on the listeners' port with 15,000 live
// connections from it, alternating between two source addresses, against bind on
// a port that nobody uses.
func TestBindStaysFlat(t *testing.T) {
	live := 15000
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < uint64(live)+200 {
		live = int(limit.Cur) / 2
		t.Logf("RLIMIT_NOFILE is %d: %d connections", limit.Cur, live)
	}
	sink := startChild(t, "sink")
	sinkPort, err := strconv.Atoi(sink.receive(t))
	if err != nil {
		t.Fatal(err)
	}
	var tr reuseport.Transport
	port := ownPort()
	sources := []netip.Addr{ownIP(), ownIP().Next()}
	for _, ip := range sources {
		listen(t, &tr, tcpMultiaddr(ip, port).String())
	}
	conns := make([]*reuseport.Conn, live)
	for i := range conns {
		ip := netip.AddrFrom4([4]byte{127, 200, byte(i >> 8), byte(i)})
		c, err := tr.Dial(tcpMultiaddr(ip, uint16(sinkPort)))
		if err != nil {
			t.Fatalf("dial %d: %v", i, err)
		}
		conns[i] = c.(*reuseport.Conn)
		defer conns[i].Abort()
		if !conns[i].Reused() {
			t.Fatalf("dial %d not reused: %v", i, conns[i].Cause())
		}
	}
	busy, idle := bindTime(t, sources, port), bindTime(t, sources, ownPort())
	t.Logf("bind with %d live connections %v, on an unused port %v", live, busy, idle)
	if busy > 10*idle+20*time.Microsecond {
		t.Errorf("bind is not flat: %v with %d live connections, %v on an unused port", busy, live, idle)
	}
}

// bindTime is the median time of a bind, alternating between the addresses.
func bindTime(t *testing.T, ips []netip.Addr, port uint16) time.Duration {
	t.Helper()
	var times []time.Duration
	for i := range 401 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, opt := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, 1); err != nil {
				t.Fatal(err)
			}
		}
		sa := unix.SockaddrInet4{Addr: ips[i%len(ips)].As4(), Port: int(port)}
		start := time.Now()
		err = unix.Bind(fd, &sa)
		times = append(times, time.Since(start))
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(times)
	return times[len(times)/2]
}

// TestPrivilegedPortFallsBack hands a listener on port 443 to a process that may
// not bind it: its dials fall back, and say why.
func TestPrivilegedPortFallsBack(t *testing.T) {
	l, err := net.Listen("tcp", netip.AddrPortFrom(ownIP(), 443).String())
	if errors.Is(err, os.ErrPermission) {
		skip(t, "only root may open port 443: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := startChildWith(t, socketFile(t, l), "inherit", peer(t, "127.0.0.1:0").String(), "nobody")
	if got, want := c.receive(t), "not reused: bind denied"; got != want {
		t.Errorf("the child says %q, want %q", got, want)
	}
}

func socketFile(t *testing.T, l net.Listener) *os.File {
	t.Helper()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestDeadSocketLeaves kills a listening socket under its listener, as a system
// that suspends does: Accept ends and dials stop using the port.
func TestDeadSocketLeaves(t *testing.T) {
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	raw, err := l.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var down error
	if err := raw.Control(func(fd uintptr) { down = unix.Shutdown(int(fd), unix.SHUT_RDWR) }); err != nil || down != nil {
		t.Fatal(err, down)
	}
	_, err = l.Accept()
	wantErr(t, err, syscall.EINVAL)
	if n := tr.Stats().Listeners; n != 0 {
		t.Errorf("%d listeners", n)
	}
	c := dial(t, &tr, peer(t, "127.0.0.1:0"))
	if c.Reused() || c.Cause() != reuseport.NoListener {
		t.Errorf("reused %t: %v", c.Reused(), c.Cause())
	}
}

// TestAcceptSurvivesEMFILE runs out of descriptors in bursts: every connection is
// served in the end, and Accept does not spin.
func TestAcceptSurvivesEMFILE(t *testing.T) {
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	var served atomic.Int32
	go countAccepts(l, &served)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	bursts := 10
	if !testing.Short() {
		bursts = 50
	}
	for i := range bursts {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for served.Load() < int32(2*i+1) {
			time.Sleep(time.Millisecond)
		}
		starve(t, limit, func() {
			fd := connectRaw(t, l.Addr().(*net.TCPAddr))
			t.Cleanup(func() { unix.Close(fd) })
		})
		for served.Load() < int32(2*i+2) {
			time.Sleep(time.Millisecond)
		}
	}
	if n := tr.Stats().AcceptDelayed; n < uint64(bursts) || n > uint64(20*bursts) {
		t.Errorf("%d bursts, Accept waited %d times", bursts, n)
	}
}

// starve lowers the descriptor limit so that connect gets the last one and Accept
// none, for 20 ms.
func starve(t *testing.T, limit unix.Rlimit, connect func()) {
	t.Helper()
	low := limit
	low.Cur = uint64(lowestFree(t)) + 1
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	connect()
	time.Sleep(20 * time.Millisecond)
}

// lowestFree is the number that the next descriptor gets.
func lowestFree(t *testing.T) int {
	t.Helper()
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	return fd
}

func connectRaw(t *testing.T, a *net.TCPAddr) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte(a.IP.To4()), Port: a.Port}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestWrapInherited takes a listener whose descriptor a parent process opened, as
// socket activation hands it over.
func TestWrapInherited(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := startChildWith(t, socketFile(t, l), "inherit", peer(t, "127.0.0.1:0").String())
	if got, want := c.receive(t), fmt.Sprintf("reused from %v", l.Addr()); got != want {
		t.Errorf("the child says %q, want %q", got, want)
	}
	out, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if got, want := c.receive(t), "accepted, linger true"; got != want {
		t.Errorf("the child says %q, want %q", got, want)
	}
}

// TestKeepAliveIsNets: a connection has the keep-alive of one that package net dialed
// or accepted, whichever way it came about.
func TestKeepAliveIsNets(t *testing.T) {
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	out, err := net.Dial("tcp", plain.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := plain.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	dialed, accepted := keepAlive(t, out.(*net.TCPConn)), keepAlive(t, in.(*net.TCPConn))

	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	fresh := dial(t, &tr, l.Multiaddr()) // to itself: from an ephemeral port
	reused := dial(t, &tr, tcpMultiaddr(netip.MustParseAddr("127.0.0.1"), uint16(portOf(plain.Addr()))))
	if fresh.Reused() || !reused.Reused() {
		t.Fatal("the dials left from other ports than they should")
	}
	for what, pair := range map[string][2][4]int{
		"dialed, ephemeral port": {keepAlive(t, fresh), dialed},
		"dialed, listening port": {keepAlive(t, reused), dialed},
		"accepted":               {keepAlive(t, accept(t, l)), accepted},
	} {
		if got, want := pair[0], pair[1]; got != want || want[0] != 1 {
			t.Errorf("%s: on, idle, interval, count: %v, want %v", what, got, want)
		}
	}
}

func keepAlive(t *testing.T, c syscall.Conn) (got [4]int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for i, opt := range [4][2]int{{unix.SOL_SOCKET, unix.SO_KEEPALIVE}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT}} {
		if cerr := raw.Control(func(fd uintptr) { got[i], err = unix.GetsockoptInt(int(fd), opt[0], opt[1]) }); cerr != nil || err != nil {
			t.Fatal(cerr, err)
		}
	}
	return got
}
