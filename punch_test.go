//go:build unix

package reuseport_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
)

// A puncher is a Transport with one listener on loopback. While start is set its
// next dial waits there.
type puncher struct {
	*reuseport.Transport
	l     manet.Listener
	start atomic.Pointer[sync.WaitGroup]
}

// control holds up the first dial of a punch until the other side has begun its
// own too.
func (p *puncher) control(network, address string, c syscall.RawConn) error {
	if start := p.start.Swap(nil); start != nil {
		start.Done()
		start.Wait()
	}
	return nil
}

func newPuncher(t *testing.T) *puncher {
	t.Helper()
	p := &puncher{}
	p.Transport = &reuseport.Transport{Control: p.control}
	l, err := p.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		t.Fatal(err)
	}
	p.l = l
	t.Cleanup(func() {
		if err := p.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return p
}

// punch punches towards q within 5 s.
func (p *puncher) punch(q *puncher) (*reuseport.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return p.Punch(ctx, q.l.Multiaddr())
}

func mustPunch(t *testing.T, p, q *puncher) *reuseport.Conn {
	t.Helper()
	c, err := p.punch(q)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// abort closes so that the 4-tuple is free at once.
func abort(t *testing.T, conns ...*reuseport.Conn) {
	t.Helper()
	for _, c := range conns {
		if err := c.Abort(); err != nil {
			t.Error(err)
		}
	}
}

// joined checks that a and b are the two ends of one connection.
func joined(t *testing.T, a, b net.Conn) {
	t.Helper()
	if a.LocalAddr().String() != b.RemoteAddr().String() || a.RemoteAddr().String() != b.LocalAddr().String() {
		t.Fatalf("%v-%v and %v-%v are not one connection", a.LocalAddr(), a.RemoteAddr(), b.LocalAddr(), b.RemoteAddr())
	}
	if _, err := a.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(b, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

func mustFail(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

// acceptAll accepts on l until it closes; what it gets arrives in the channel.
func acceptAll(l manet.Listener) <-chan manet.Conn {
	got := make(chan manet.Conn, 1000)
	go func() {
		defer close(got)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			got <- c
		}
	}()
	return got
}

// TestPunchBothSides punches from both sides at once, often enough that all
// orders of the SYNs occur: crossing, one first, and one first while nobody
// accepts. There is one connection, and no Accept returns it.
func TestPunchBothSides(t *testing.T) {
	for _, accepting := range []bool{true, false} {
		name := map[bool]string{true: "Accept is called", false: "Accept is not called"}[accepting]
		t.Run(name, func(t *testing.T) {
			a, b := newPuncher(t), newPuncher(t)
			var stray [2]<-chan manet.Conn
			if accepting {
				stray = [2]<-chan manet.Conn{acceptAll(a.l), acceptAll(b.l)}
			}
			crossed := 0
			for range 100 {
				ca, cb := punchBoth(t, a, b)
				if ca.Direction() == reuseport.Accepted && cb.Direction() == reuseport.Accepted {
					t.Fatal("accepted on both sides")
				}
				if ca.Direction() == cb.Direction() {
					crossed++
				}
				joined(t, ca, cb)
				abort(t, ca, cb)
			}
			t.Logf("%d of 100 were simultaneous opens, the others arrived at a listener", crossed)
			if len(stray[0])+len(stray[1]) > 0 {
				t.Error("Accept returned a connection of a punch")
			}
		})
	}
}

func punchBoth(t *testing.T, a, b *puncher) (ca, cb *reuseport.Conn) {
	t.Helper()
	var start, wg sync.WaitGroup
	start.Add(2)
	a.start.Store(&start)
	b.start.Store(&start)
	var errA, errB error
	wg.Go(func() { ca, errA = a.punch(b) })
	wg.Go(func() { cb, errB = b.punch(a) })
	wg.Wait()
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	return ca, cb
}

// TestPunchPublicPeer: a peer that listens and does not punch is reached as by a
// plain dial.
func TestPunchPublicPeer(t *testing.T) {
	a, b := newPuncher(t), newPuncher(t)
	accepted := acceptAll(b.l)
	c := mustPunch(t, a, b)
	peer := (<-accepted).(*reuseport.Conn)
	joined(t, c, peer)
	if c.Direction() != reuseport.Dialed || peer.Direction() != reuseport.Accepted || !c.Reused() {
		t.Errorf("%v, reused %v; peer %v", c.Direction(), c.Reused(), peer.Direction())
	}
	abort(t, c, peer)
}

// TestPunchAdopts: the peer's connection waits in the accept queue, behind those
// of strangers, and nobody calls Accept.
func TestPunchAdopts(t *testing.T) {
	a, b := newPuncher(t), newPuncher(t)
	strangers := map[string]bool{}
	stranger := func() {
		c, err := net.Dial("tcp", a.l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		strangers[c.LocalAddr().String()] = true
	}
	stranger()
	peer, err := b.Dial(a.l.Multiaddr())
	if err != nil {
		t.Fatal(err)
	}
	stranger()
	c := mustPunch(t, a, b)
	if c.Direction() != reuseport.Accepted {
		t.Errorf("direction %v, want accepted", c.Direction())
	}
	joined(t, c, peer)
	for range 2 {
		s, err := a.l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if !strangers[s.RemoteAddr().String()] {
			t.Errorf("Accept returned %v, want a stranger", s.RemoteAddr())
		}
		delete(strangers, s.RemoteAddr().String())
		s.Close()
	}
	abort(t, c, peer.(*reuseport.Conn))
}

// TestPunchLeavesOthersAlone: while a punch runs, Accept returns whoever is not
// exactly its raddr.
func TestPunchLeavesOthersAlone(t *testing.T) {
	a, b := newPuncher(t), newPuncher(t)
	accepted := acceptAll(a.l)
	silent := silentListener(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error)
	go func() {
		_, err := a.Punch(ctx, silent)
		done <- err
	}()
	for range 20 {
		c, err := b.Dial(a.l.Multiaddr())
		if err != nil {
			t.Fatal(err)
		}
		got := (<-accepted).(*reuseport.Conn)
		joined(t, c, got)
		abort(t, c.(*reuseport.Conn), got)
	}
	cancel()
	mustFail(t, <-done, context.Canceled)
}

// TestPunchTupleInUse: a connection with the peer exists and is no news.
func TestPunchTupleInUse(t *testing.T) {
	t.Parallel()
	a, b := newPuncher(t), newPuncher(t)
	accepted := acceptAll(b.l)
	c := mustPunch(t, a, b)
	peer := (<-accepted).(*reuseport.Conn)
	began := time.Now()
	_, err := a.punch(b)
	mustFail(t, err, reuseport.ErrTupleInUse)
	if took := time.Since(began); took > 4500*time.Millisecond {
		t.Errorf("found out after %v", took)
	}
	joined(t, c, peer)
	abort(t, c, peer)
}

// TestPunchOnceAtATime: one punch for each peer.
func TestPunchOnceAtATime(t *testing.T) {
	a := newPuncher(t)
	silent := silentListener(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	errs := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := a.Punch(ctx, silent)
			errs <- err
		}()
	}
	mustFail(t, <-errs, reuseport.ErrTupleInUse)
	cancel()
	mustFail(t, <-errs, context.Canceled)
}

// TestPunchDeadline: a SYN stays in flight until the deadline, and is one SYN.
func TestPunchDeadline(t *testing.T) {
	t.Parallel()
	a := newPuncher(t)
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	_, err := a.Punch(ctx, silentListener(t))
	mustFail(t, err, context.DeadlineExceeded)
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "punch" || op.Source.String() != a.l.Addr().String() {
		t.Errorf("error %v does not name the punch and its addresses", err)
	}
	if got := a.Stats(); got.PunchSYNs != 1 || got.PunchesFailed != 1 {
		t.Errorf("%d SYNs, %d failed; want 1, 1", got.PunchSYNs, got.PunchesFailed)
	}
}

// TestPunchPacesRefusals: a refusing peer gets 20 SYNs in the first second and 5
// in each after.
func TestPunchPacesRefusals(t *testing.T) {
	t.Parallel()
	a, gone := newPuncher(t), newPuncher(t)
	target := gone.l.Multiaddr()
	if err := gone.l.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2500*time.Millisecond)
	defer cancel()
	_, err := a.Punch(ctx, target)
	mustFail(t, err, context.DeadlineExceeded)
	if got := a.Stats().PunchSYNs; got < 20 || got > 20+5*2 {
		t.Errorf("%d SYNs in 2.5 s, want 20 to 30", got)
	}
}

// TestPunchTransportLimit: all punches share a budget and a number.
func TestPunchTransportLimit(t *testing.T) {
	t.Parallel()
	a, gone := newPuncher(t), newPuncher(t)
	port := gone.l.Addr().(*net.TCPAddr).Port
	if err := gone.l.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
	defer cancel()
	errs := make(chan error, 80)
	for host := range cap(errs) {
		to, err := manet.FromNetAddr(&net.TCPAddr{IP: net.IPv4(127, 0, 3, byte(host+1)), Port: port})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := a.Punch(ctx, to)
			errs <- err
		}()
	}
	limited := 0
	for range cap(errs) {
		if errors.Is(<-errs, reuseport.ErrPunchLimit) {
			limited++
		}
	}
	if limited < 32 {
		t.Errorf("%d of 80 punches met the limit of 48, want 32 or more", limited)
	}
	if got := a.Stats().PunchSYNs; got > 100+75+5 {
		t.Errorf("%d SYNs in 1.5 s, want at most 100 and 50 a second", got)
	}
}

func TestPunchErrors(t *testing.T) {
	a := newPuncher(t)
	for _, addr := range []string{"/dns4/localhost/tcp/1", "/ip4/127.0.0.1/udp/1", "/ip4/127.0.0.1", ""} {
		var m ma.Multiaddr
		if addr != "" {
			m = ma.StringCast(addr)
		}
		_, err := a.Punch(context.Background(), m)
		mustFail(t, err, reuseport.ErrWrongProto)
	}
	var none reuseport.Transport
	_, err := none.Punch(context.Background(), a.l.Multiaddr())
	mustFail(t, err, reuseport.ErrNoReuse)
	_, err = a.Punch(context.Background(), a.l.Multiaddr())
	mustFail(t, err, reuseport.ErrNoReuse) // from the listener's port to itself
	if err := none.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	_, err = none.Punch(context.Background(), a.l.Multiaddr())
	mustFail(t, err, net.ErrClosed)
}

// TestPunchKeepsForLastClose: what a punch took from the accept queue is reset
// with the last handle of the socket, as the kernel does with its queue.
func TestPunchKeepsForLastClose(t *testing.T) {
	a, b := newPuncher(t), newPuncher(t)
	second, err := a.Listen(a.l.Multiaddr())
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := net.Dial("tcp", a.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	peer, err := b.Dial(a.l.Multiaddr())
	if err != nil {
		t.Fatal(err)
	}
	abort(t, mustPunch(t, a, b), peer.(*reuseport.Conn))
	if err := a.l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := stranger.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, err = stranger.Read(make([]byte, 1))
	if nerr, ok := errors.AsType[net.Error](err); !ok || !nerr.Timeout() {
		t.Errorf("the stranger reads %v while a handle is open, want a timeout", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if err := stranger.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err = stranger.Read(make([]byte, 1))
	mustFail(t, err, syscall.ECONNRESET)
}

// TestPunchAdoptsKept: what an earlier punch took from the accept queue is there for
// a later one.
func TestPunchAdoptsKept(t *testing.T) {
	a, b, other := newPuncher(t), newPuncher(t), newPuncher(t)
	var peers [2]*reuseport.Conn
	for i, p := range []*puncher{other, b} { // other's waits before b's in the queue
		peer, err := p.Dial(a.l.Multiaddr())
		if err != nil {
			t.Fatal(err)
		}
		peers[i] = peer.(*reuseport.Conn)
	}
	first, second := mustPunch(t, a, b), mustPunch(t, a, other)
	joined(t, first, peers[1])
	joined(t, second, peers[0])
	abort(t, first, second, peers[0], peers[1])
}

// TestPunchShared: the kernel gives the peer's connection to another Transport
// on the port, about every second time; the punch then says that the 4-tuple is
// taken, and the other Transport's Accept returns the connection.
func TestPunchShared(t *testing.T) {
	linuxOnly(t)
	t.Parallel()
	first, second := &puncher{Transport: &reuseport.Transport{Shared: true}}, &puncher{Transport: &reuseport.Transport{Shared: true}}
	listenShared(t, first, "/ip4/127.0.0.1/tcp/0")
	listenShared(t, second, first.l.Multiaddr().String())
	elsewhere := acceptAll(second.l)
	for n := 0; n < 50; n++ {
		b := newPuncher(t)
		peer, err := b.Dial(first.l.Multiaddr())
		if err != nil {
			t.Fatal(err)
		}
		c, err := first.punch(b)
		if err == nil {
			joined(t, c, peer)
			abort(t, c, peer.(*reuseport.Conn))
			continue
		}
		mustFail(t, err, reuseport.ErrTupleInUse)
		joined(t, <-elsewhere, peer)
		return
	}
	t.Error("the other Transport never got a connection in 50")
}

func listenShared(t *testing.T, p *puncher, addr string) {
	t.Helper()
	l, err := p.Listen(ma.StringCast(addr))
	if err != nil {
		t.Fatal(err)
	}
	p.l = l
	t.Cleanup(func() { l.Close() })
}

// TestPunchLeaksNothing counts goroutines after punches of every outcome.
func TestPunchLeaksNothing(t *testing.T) {
	a, b := newPuncher(t), newPuncher(t)
	silent := silentListener(t)
	before := runtime.NumGoroutine()
	for range 20 {
		ca, cb := punchBoth(t, a, b)
		abort(t, ca, cb)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
		_, err := a.Punch(ctx, silent)
		mustFail(t, err, context.DeadlineExceeded)
		cancel()
	}
	for wait := time.Millisecond; runtime.NumGoroutine() > before && wait < time.Second; wait *= 2 {
		time.Sleep(wait)
	}
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines, %d before", after, before)
	}
}

// silentListener is an address on loopback where no SYN is answered: a listener
// whose accept queue is full.
func silentListener(t *testing.T) ma.Multiaddr {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "silent")
	t.Cleanup(func() { file.Close() })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil { // holds one connection
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: sa.(*syscall.SockaddrInet4).Port}
	c, err := net.DialTCP("tcp4", nil, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	m, err := manet.FromNetAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestDialDeadline: a dial that meets silence ends with context.DeadlineExceeded,
// whichever of its two timers was first, from a listening port and from another.
func TestDialDeadline(t *testing.T) {
	a := newPuncher(t)
	silent := silentListener(t)
	for range 50 {
		for _, use := range []reuseport.PortUse{reuseport.RequireReuse, reuseport.NewPort} {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Millisecond)
			_, err := a.DialContext(reuseport.WithPortUse(ctx, use), silent)
			mustFail(t, err, context.DeadlineExceeded)
			if nerr, ok := errors.AsType[net.Error](err); !ok || !nerr.Timeout() {
				t.Errorf("error %v is no timeout", err)
			}
			cancel()
		}
	}
}

// TestPunchCloseAtOnce: one side closes what it punched while the other may still be
// in connect. The other reads EOF: it is not reset into a second connection, which
// would wait for an Accept that nobody calls.
func TestPunchCloseAtOnce(t *testing.T) {
	a, b := newPuncher(t), newPuncher(t)
	for range 200 {
		var wg sync.WaitGroup
		wg.Go(func() {
			if c, err := a.punch(b); err != nil {
				t.Error(err)
			} else if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			c, err := b.punch(a)
			if err != nil {
				t.Error(err)
				return
			}
			c.SetReadDeadline(time.Now().Add(5 * time.Second))
			if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("read %d bytes, %v, want EOF", n, err)
			}
			c.Abort()
		})
		wg.Wait()
		if t.Failed() {
			return
		}
		awaitCloses(t, a.Transport)
	}
}
