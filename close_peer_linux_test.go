package reuseport_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
)

// These tests look at a close from the peer: at what the peer's socket shows to poll,
// getpeername, SO_ERROR and TCP_INFO. It must be what it shows after package net's close.

// A socketView is what a socket shows.
type socketView struct {
	state  uint8         // TCP_INFO
	events int16         // poll
	err    int           // SO_ERROR
	peer   syscall.Errno // getpeername's error
}

const (
	established = 1 // of TCP_INFO; <netinet/tcp.h>
	closeWait   = 8
)

// view returns what the socket of c shows.
func view(t *testing.T, c net.Conn) (v socketView) {
	t.Helper()
	onSocket(t, c, func(fd int) error {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLOUT | unix.POLLRDHUP}}
		_, pollErr := unix.Poll(p, 0)
		info, infoErr := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err := errors.Join(pollErr, infoErr); err != nil {
			return err
		}
		_, peerErr := unix.Getpeername(fd)
		errors.As(peerErr, &v.peer)
		v.state, v.events = info.State, p[0].Revents
		var err error
		v.err, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		return err
	})
	return v
}

// A plainPeer is the other end of a connection, with package net.
type plainPeer struct {
	net.Conn
	want []byte // what it is to read
}

// closing is connections that are to be closed, and their peers. Their listeners are those of a
// Transport, or of package net alone.
type closing struct {
	tr    *reuseport.Transport // nil with package net
	l     net.Listener         // accepts
	far   *net.TCPListener     // of the peers
	conns []net.Conn
	peers []plainPeer
}

func newClosing(t *testing.T, tr *reuseport.Transport) *closing {
	t.Helper()
	far, _ := stuckPeer(t)
	if tr != nil {
		return &closing{tr: tr, l: netListener{listen(t, tr, "/ip4/127.0.0.1/tcp/0")}, far: far}
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &closing{l: l, far: far}
}

// netListener is a manet.Listener as a net.Listener.
type netListener struct{ manet.Listener }

func (l netListener) Accept() (net.Conn, error) { return l.Listener.Accept() }

// dial connects to a peer, from the listening port if there is a Transport.
func (g *closing) dial(t *testing.T) (c, end net.Conn) {
	t.Helper()
	port := uint16(portOf(g.far.Addr()))
	ip := netip.AddrFrom4([4]byte{127, 4, 0, byte(len(g.conns))})
	if g.tr != nil {
		c = dialOnce(t, g.tr, tcpMultiaddr(ip, port))
	} else {
		c = dialPlain(t, netip.AddrPortFrom(ip, port).String())
	}
	end, err := g.far.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c, end
}

// accept lets a peer connect.
func (g *closing) accept(t *testing.T) (c, end net.Conn) {
	t.Helper()
	d := net.Dialer{Control: smallBuffer}
	d.SetMultipathTCP(false)
	end, err := d.DialContext(t.Context(), "tcp4", g.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if c, err = g.l.Accept(); err != nil {
		t.Fatal(err)
	}
	return c, end
}

// add connects with f and writes size bytes. If size is large, the peer cannot take all.
func (g *closing) add(t *testing.T, f func(*testing.T) (c, end net.Conn), size int) plainPeer {
	t.Helper()
	c, end := f(t)
	t.Cleanup(func() { end.Close() })
	if _, err := c.Write(pattern(size)); err != nil {
		t.Fatal(err)
	}
	p := plainPeer{end, pattern(size)}
	g.conns, g.peers = append(g.conns, c), append(g.peers, p)
	return p
}

// addMany adds as many dialed as accepted connections. Every other peer of a Transport has sent
// something that nobody reads, for which package net's close would reset.
func (g *closing) addMany(t *testing.T, size int) {
	t.Helper()
	for i := range 8 {
		p := g.add(t, []func(*testing.T) (c, end net.Conn){g.dial, g.accept}[i/4], size)
		if i%2 == 0 || g.tr == nil {
			continue
		}
		if _, err := io.WriteString(p, "unread"); err != nil {
			t.Fatal(err)
		}
		awaitUnread(t, g.conns[i])
	}
}

func (g *closing) closeAll(t *testing.T) {
	t.Helper()
	for _, c := range g.conns {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// wantViews checks that each peer's socket shows want[0], and want[1] after the peer has read
// everything.
func (g *closing) wantViews(t *testing.T, want [2]socketView) {
	t.Helper()
	for i, p := range g.peers {
		if got := view(t, p.Conn); got != want[0] {
			t.Errorf("connection %d: the peer's socket shows %+v, and after package net's close %+v", i, got, want[0])
		}
		wantDataThenEOF(t, p, p.want)
		if got := view(t, p.Conn); got != want[1] {
			t.Errorf("connection %d: after EOF the peer's socket shows %+v, and after package net's close %+v", i, got, want[1])
		}
	}
}

// viewsAfterNet returns what a peer's socket shows after package net's close, before and after
// the peer has read everything.
func viewsAfterNet(t *testing.T, size int) (views [2]socketView) {
	t.Helper()
	g := newClosing(t, nil)
	p := g.add(t, g.accept, size)
	g.closeAll(t)
	views[0] = view(t, p.Conn)
	wantDataThenEOF(t, p, p.want)
	views[1] = view(t, p.Conn)
	return views
}

// careEnds are what may befall closes whose peers have not closed. All but the first two leave
// them to the system.
var careEnds = []struct {
	name  string
	leave bool
	end   func(t *testing.T, g *closing)
}{
	{"nothing", false, func(*testing.T, *closing) {}},
	{"Shutdown", false, endByShutdown},
	{"eviction", true, endByEviction},
	{"Accept without descriptors", true, endByAccept},
	{"Dial without descriptors", true, endByDial},
	{"Close without descriptors", true, endByClose},
}

func endByShutdown(t *testing.T, g *closing) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var undelivered *reuseport.UndeliveredError
	if err := g.tr.Shutdown(ctx); err != nil && !errors.As(err, &undelivered) {
		t.Error(err)
	}
}

func endByEviction(t *testing.T, g *closing) {
	last, end := g.dial(t)
	t.Cleanup(func() { end.Close() })
	last.(*reuseport.Conn).LimitPendingCloses(1)
	if err := last.Close(); err != nil {
		t.Error(err)
	}
}

func endByAccept(t *testing.T, g *closing) {
	connectRaw(t, g.l.Addr().(*net.TCPAddr))
	shortOfDescriptors(t, func() {
		c, err := g.l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		abort(t, c.(*reuseport.Conn))
	})
}

func endByDial(t *testing.T, g *closing) {
	shortOfDescriptors(t, func() {
		abort(t, dialOnce(t, g.tr, tcpMultiaddr(localhost, uint16(portOf(g.far.Addr())))))
	})
}

func endByClose(t *testing.T, g *closing) {
	last, end := g.dial(t)
	t.Cleanup(func() { end.Close() })
	shortOfDescriptors(t, func() {
		if err := last.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestPeerSeesNetsClose: whatever befalls a close, the socket of a peer that has not closed shows
// what it shows after package net's close.
func TestPeerSeesNetsClose(t *testing.T) {
	for _, size := range []int{0, 64 << 10} {
		want := viewsAfterNet(t, size)
		if size == 0 && want[0].state != closeWait || size > 0 && want[0].state != established || want[1].state != closeWait {
			t.Fatalf("after package net's close of %d bytes: %+v", size, want)
		}
		for _, row := range careEnds {
			t.Run(fmt.Sprintf("%s, %d bytes", row.name, size), func(t *testing.T) {
				g := newClosing(t, &reuseport.Transport{FlushTimeout: time.Minute})
				g.addMany(t, size)
				g.closeAll(t)
				row.end(t, g)
				wantLeft(t, g, row.leave && size > 0)
				g.wantViews(t, want)
			})
		}
	}
}

// shortOfDescriptors calls f while this process has every descriptor that it may have. Unlike
// withSpareDescriptors, it leaves none of the closes with a number above the limit, where to end
// it helps nobody.
func shortOfDescriptors(t *testing.T, f func()) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = uint64(highestDescriptor(t) + 1)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
	}()
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EMFILE) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
	}
	f()
}

// highestDescriptor returns the number of the highest descriptor of this process.
func highestDescriptor(t *testing.T) (highest int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		highest = max(highest, fd)
	}
	return highest
}

// TestGiveUpBesideSweep: a dial that finds no descriptor gets one of a close, also while the closes
// are being inspected.
func TestGiveUpBesideSweep(t *testing.T) {
	const closes, firstInspection = 32, 8 * time.Millisecond
	for range rounds(100, 20) {
		g := newClosing(t, &reuseport.Transport{})
		for range closes {
			g.add(t, g.dial, 0)
		}
		g.closeAll(t)
		time.Sleep(firstInspection + rand.N(300*time.Microsecond))
		endByDial(t, g)
		for _, p := range g.peers {
			p.Close()
		}
	}
}

// wantLeft checks whether the closes were left to the system with data outstanding.
func wantLeft(t *testing.T, g *closing, left bool) {
	t.Helper()
	want := uint64(0)
	if left {
		want = uint64(len(g.peers))
	}
	if n := g.tr.Stats().ClosesAborted; n != want {
		t.Errorf("%d of %d closes left to the system, want %d", n, len(g.peers), want)
	}
}

// TestPeerSeesNetsCloseAtFlushTimeout: the same for a close that FlushTimeout leaves to the
// system.
func TestPeerSeesNetsCloseAtFlushTimeout(t *testing.T) {
	const size = 64 << 10
	want := viewsAfterNet(t, size)
	g := newClosing(t, &reuseport.Transport{FlushTimeout: 100 * time.Millisecond})
	g.addMany(t, size)
	g.closeAll(t)
	awaitCloses(t, g.tr)
	wantLeft(t, g, true)
	g.wantViews(t, want)
}

// TestCloseTurnsLingerOff: SO_LINGER 0 is on while a connection lives, and off after Close, so
// that a process may die after Close and lose nothing.
func TestCloseTurnsLingerOff(t *testing.T) {
	p := newClosePair(t, 0)
	for name, c := range map[string]*reuseport.Conn{"dialed": p.dialed, "accepted": p.accepted} {
		before, err := lingersZero(c)
		if err != nil {
			t.Fatal(err)
		}
		dup := -1
		onSocket(t, c, func(fd int) (err error) { dup, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); return err })
		defer unix.Close(dup)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		after, err := unix.GetsockoptLinger(dup, unix.SOL_SOCKET, unix.SO_LINGER)
		if err != nil {
			t.Fatal(err)
		}
		if !before || after.Onoff != 0 {
			t.Errorf("%s: SO_LINGER 0 %v before Close, %+v after it", name, before, *after)
		}
	}
}

// TestCrashFreesTuples: a process that is killed has all its 4-tuples back at once, those of
// dialed and of accepted connections. The peers read ECONNRESET.
func TestCrashFreesTuples(t *testing.T) {
	const n = 20
	address := tcpMultiaddr(ownIP(), ownPort())
	far, port := stuckPeer(t)
	var dialer reuseport.Transport
	listen(t, &dialer, "/ip4/0.0.0.0/tcp/0")
	for range 3 { // each with the 4-tuples of the one before
		c := startChild(t, "live", address.String(), fmt.Sprint(port), fmt.Sprint(n))
		wantLines(t, c, "dialed")
		in, err := dialer.DialContext(required(t), address)
		if err != nil {
			t.Fatal(err)
		}
		ends := []net.Conn{in}
		for range n {
			end, err := far.Accept()
			if err != nil {
				t.Fatal(err)
			}
			ends = append(ends, end)
		}
		wantLines(t, c, fmt.Sprintf("%d of %d linger", n+1, n+1))
		c.send(t, "die")
		for _, end := range ends {
			_, err := end.Read(make([]byte, 1))
			wantErr(t, err, syscall.ECONNRESET)
			end.Close()
		}
	}
}

// childLive listens on an address, dials a port of n addresses of 127.5/16 from there, accepts a
// connection, says how many of all have SO_LINGER 0, and kills itself when told so.
func childLive(args []string) error {
	port, err := strconv.ParseUint(args[1], 10, 16)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	tr := reuseport.Transport{PortUse: reuseport.RequireReuse}
	l, err := tr.Listen(ma.StringCast(args[0]))
	if err != nil {
		return err
	}
	var conns []manet.Conn
	for i := range n {
		c, err := tr.Dial(tcpMultiaddr(netip.AddrFrom4([4]byte{127, 5, 0, byte(i)}), uint16(port)))
		if err != nil {
			return err
		}
		conns = append(conns, c)
	}
	fmt.Println("dialed")
	c, err := l.Accept()
	if err != nil {
		return err
	}
	return sayLingerAndDie(append(conns, c))
}

func sayLingerAndDie(conns []manet.Conn) error {
	linger := 0
	for _, c := range conns {
		zero, err := lingersZero(c.(*reuseport.Conn))
		if err != nil {
			return err
		}
		if zero {
			linger++
		}
	}
	fmt.Printf("%d of %d linger\n", linger, len(conns))
	if lines := bufio.NewScanner(os.Stdin); !lines.Scan() {
		return lines.Err() // the test has ended
	}
	return unix.Kill(os.Getpid(), unix.SIGKILL)
}
