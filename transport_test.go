//go:build !plan9

package reuseport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/net/nettest"

	"github.com/reusetransport/reuseport"
)

// The signatures by which a Transport stands in for go-libp2p's
// p2p/net/reuseport and for go-reuseport-transport.
var _ interface {
	Listen(ma.Multiaddr) (manet.Listener, error)
	Dial(ma.Multiaddr) (manet.Conn, error)
	DialContext(context.Context, ma.Multiaddr) (manet.Conn, error)
} = (*reuseport.Transport)(nil)

var _ error = reuseport.ErrWrongProto

var wrongAddresses = []string{
	"/ip4/127.0.0.1/udp/1", "/ip4/127.0.0.1", "/ip4/127.0.0.1/tcp/1/ws", "/tcp/1",
	"/ip6zone/lo/ip4/127.0.0.1/tcp/1", "/dnsaddr/localhost/tcp/1", "/unix/x", "/dns4/localhost",
	"/ip6/::1/udp/1/quic-v1", "/ip6zone/lo/ip6/::1",
}

func TestDialWrongAddress(t *testing.T) {
	var tr reuseport.Transport
	_, err := tr.Dial(nil)
	wantErr(t, err, reuseport.ErrWrongProto)
	_, err = tr.Dial(ma.Multiaddr{})
	wantErr(t, err, reuseport.ErrWrongProto)
	for _, s := range wrongAddresses {
		_, err := tr.Dial(parse(t, s))
		wantErr(t, err, reuseport.ErrWrongProto)
		if err != nil && !strings.Contains(err.Error(), s) {
			t.Errorf("%v does not name %s", err, s)
		}
	}
	for _, network := range []string{"udp", "", "unix", "tcp5"} {
		_, err := tr.DialNetContext(context.Background(), network, "127.0.0.1:1")
		wantErr(t, err, reuseport.ErrWrongProto)
	}
	if n := tr.Stats().DialsFailed; n != uint64(len(wrongAddresses)+6) {
		t.Errorf("Stats().DialsFailed = %d", n)
	}
}

// FuzzDialMultiaddr: whatever bytes make a multiaddr, a dial ends with an error
// and no panic. The context has ended, so nothing is sent.
func FuzzDialMultiaddr(f *testing.F) {
	for _, s := range append(wrongAddresses, "/ip4/127.0.0.1/tcp/1", "/ip6zone/lo/ip6/fe80::1/tcp/1", "/dns/localhost/tcp/1", "/dns/not!a!name/tcp/1") {
		f.Add(ma.StringCast(s).Bytes())
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ma.NewMultiaddrBytes(b)
		if err != nil {
			return
		}
		var tr reuseport.Transport
		_, err = tr.DialContext(ctx, m)
		if err == nil {
			t.Fatalf("%v: no error", m)
		}
		if !errors.Is(err, reuseport.ErrWrongProto) && !errors.Is(err, context.Canceled) {
			t.Fatalf("%v: %v", m, err)
		}
	})
}

// TestRefusedCostsOneSYN counts sockets: a refusing peer gets one, from whatever
// listener, and the error has the errno, the operation and both addresses.
func TestRefusedCostsOneSYN(t *testing.T) {
	for _, laddr := range []string{"", "/ip4/127.0.0.1/tcp/0", "/ip4/0.0.0.0/tcp/0"} {
		var n atomic.Int32
		tr := reuseport.Transport{Control: attempts(&n)}
		local := ""
		if laddr != "" {
			local = fmt.Sprint(portOf(listen(t, &tr, laddr).Addr()))
		}
		closed := tcpMultiaddr(ownIP(), 1)
		n.Store(0)
		_, err := tr.Dial(closed)
		wantErr(t, err, syscall.ECONNREFUSED)
		var op *net.OpError
		if !errors.As(err, &op) || !strings.Contains(err.Error(), ":"+local) || !strings.Contains(err.Error(), ownIP().String()+":1") {
			t.Errorf("listening on %q: error %q lacks an address", laddr, err)
		}
		if n.Load() != 1 {
			t.Errorf("listening on %q: %d attempts", laddr, n.Load())
		}
	}
}

// TestTimedOutCostsOneSYN dials a listener whose queue is full, which drops SYNs.
func TestTimedOutCostsOneSYN(t *testing.T) {
	var n atomic.Int32
	tr := reuseport.Transport{Control: attempts(&n)}
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	full := fullListener(t)
	n.Store(0)
	start := time.Now()
	_, err := tr.DialContext(shortly(t, 300*time.Millisecond), full)
	wantErr(t, err, context.DeadlineExceeded)
	if n.Load() != 1 || time.Since(start) > 3*time.Second {
		t.Errorf("%d attempts in %v", n.Load(), time.Since(start))
	}
}

// TestOwnListener dials the Transport's own listeners by every name they have:
// the listener accepts, and nothing is connected to itself.
func TestOwnListener(t *testing.T) {
	for _, row := range []struct{ listen, dial string }{
		{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/%d"},
		{"/ip4/0.0.0.0/tcp/0", "/ip4/127.0.0.1/tcp/%d"},
		{"/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/tcp/%d"},
		{"/ip4/0.0.0.0/tcp/0", "/ip4/127.0.0.7/tcp/%d"},
		{"/ip4/127.0.0.7/tcp/0", "/ip4/127.0.0.7/tcp/%d"},
		{"/ip6/::1/tcp/0", "/ip6/::1/tcp/%d"},
		{"/ip6/::/tcp/0", "/ip6/::1/tcp/%d"},
		{"/ip6/::/tcp/0", "/ip6/::/tcp/%d"},
	} {
		t.Run(row.listen+" "+row.dial, func(t *testing.T) {
			if strings.Contains(row.listen+row.dial, "127.0.0.7") { // an address on Linux alone
				linuxOnly(t)
			}
			var tr reuseport.Transport
			l := listen(t, &tr, row.listen)
			c := dial(t, &tr, parse(t, fmt.Sprintf(row.dial, portOf(l.Addr()))))
			in := accept(t, l)
			if in.RemoteAddr().String() != c.LocalAddr().String() || c.LocalAddr().String() == c.RemoteAddr().String() {
				t.Errorf("dialed %v -> %v, accepted %v", c.LocalAddr(), c.RemoteAddr(), in.RemoteAddr())
			}
			if reused := strings.HasPrefix(row.dial, "/ip4/127.0.0.7") && row.listen == "/ip4/0.0.0.0/tcp/0"; c.Reused() != reused {
				t.Errorf("Reused() = %t from %v", c.Reused(), c.LocalAddr())
			}
		})
	}
}

// TestSamePortNumber dials a peer whose port number is ours: everyone on 4001.
func TestSamePortNumber(t *testing.T) {
	linuxOnly(t)
	var us, them reuseport.Transport
	port := ownPort()
	l := listen(t, &us, tcpMultiaddr(netip.MustParseAddr("127.0.0.1"), port).String())
	remote := listen(t, &them, tcpMultiaddr(ownIP(), port).String())
	c := dial(t, &us, remote.Multiaddr())
	if !c.Reused() || portOf(c.LocalAddr()) != portOf(l.Addr()) {
		t.Errorf("from %v, reused %t: %v", c.LocalAddr(), c.Reused(), c.Cause())
	}
}

// TestPortUse walks through the policies, on the Transport and per dial.
func TestPortUse(t *testing.T) {
	tr := reuseport.Transport{PortUse: reuseport.RequireReuse}
	raddr := peer(t, "127.0.0.1:0")
	_, err := tr.Dial(raddr)
	wantErr(t, err, reuseport.ErrNoReuse)
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	if c := dial(t, &tr, raddr); !c.Reused() || c.Cause() != reuseport.NoCause {
		t.Errorf("reused %t: %v", c.Reused(), c.Cause())
	}
	_, err = tr.Dial(raddr)
	wantErr(t, err, reuseport.ErrTupleInUse)
	_, err = tr.Dial(l.Multiaddr())
	wantErr(t, err, reuseport.ErrNoReuse)
	ctx := reuseport.WithPortUse(context.Background(), reuseport.NewPort)
	c, err := tr.DialContext(ctx, raddr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if rc := c.(*reuseport.Conn); rc.Reused() || rc.Cause() != reuseport.ByPolicy {
		t.Errorf("NewPort: reused %t: %v", rc.Reused(), rc.Cause())
	}
	_, err = tr.DialContext(reuseport.WithPortUse(ctx, 7), raddr)
	wantErr(t, err, reuseport.ErrBadPortUse)
}

func TestPortUseOf(t *testing.T) {
	if use, ok := reuseport.PortUseOf(context.Background()); ok {
		t.Errorf("%v in a context that has none", use)
	}
	ctx := reuseport.WithPortUse(context.Background(), reuseport.PreferReuse)
	if use, ok := reuseport.PortUseOf(ctx); use != reuseport.PreferReuse || !ok {
		t.Errorf("%v, %t; want PreferReuse, true", use, ok)
	}
}

// TestRequireReuseSendsNothing counts sockets of dials that RequireReuse fails.
func TestRequireReuseSendsNothing(t *testing.T) {
	var n atomic.Int32
	tr := reuseport.Transport{PortUse: reuseport.RequireReuse, Control: attempts(&n)}
	raddr := peer(t, "127.0.0.1:0")
	if _, err := tr.Dial(raddr); !errors.Is(err, reuseport.ErrNoReuse) || n.Load() != 0 {
		t.Errorf("no listener: %v after %d attempts", err, n.Load())
	}
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	dial(t, &tr, raddr)
	n.Store(0)
	if _, err := tr.Dial(raddr); !errors.Is(err, reuseport.ErrTupleInUse) || n.Load() != 1 {
		t.Errorf("4-tuple taken: %v after %d attempts", err, n.Load())
	}
}

// TestSecondDialFallsBack says so on the connection and in Stats.
func TestSecondDialFallsBack(t *testing.T) {
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	raddr := peer(t, "127.0.0.1:0")
	first, second := dial(t, &tr, raddr), dial(t, &tr, raddr)
	if !first.Reused() || second.Reused() || second.Cause() != reuseport.TupleInUse {
		t.Errorf("first %t, second %t: %v", first.Reused(), second.Reused(), second.Cause())
	}
	s := tr.Stats()
	if s.DialsReused != 1 || s.DialsNew != 1 || s.NewByCause[reuseport.TupleInUse] != 1 || s.DialsFailed != 0 {
		t.Errorf("%+v", s)
	}
}

// TestTwoListenersSpread uses the second listener's port where the first's
// 4-tuple is taken.
func TestTwoListenersSpread(t *testing.T) {
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	listen(t, &tr, "/ip4/0.0.0.0/tcp/0")
	raddr := peer(t, "127.0.0.1:0")
	a, b, c := dial(t, &tr, raddr), dial(t, &tr, raddr), dial(t, &tr, raddr)
	if !a.Reused() || !b.Reused() || c.Reused() || portOf(a.LocalAddr()) == portOf(b.LocalAddr()) {
		t.Errorf("%v %v %v", a.LocalAddr(), b.LocalAddr(), c.LocalAddr())
	}
}

// TestRedialAfterClose redials one peer from the shared port after either side
// has closed.
func TestRedialAfterClose(t *testing.T) {
	for _, who := range []string{"we", "the peer"} {
		t.Run(who+" closed", func(t *testing.T) {
			var us, them reuseport.Transport
			listen(t, &us, "/ip4/127.0.0.1/tcp/0")
			remote := listen(t, &them, "/ip4/127.0.0.1/tcp/0")
			reused := 0
			for range 200 {
				c := dial(t, &us, remote.Multiaddr())
				in := accept(t, remote)
				if c.Reused() {
					reused++
				}
				if who == "we" {
					closeThenAwait(t, c, in)
				} else {
					closeThenAwait(t, in, c)
				}
			}
			if reused < 196 {
				t.Errorf("%d of 200 redials reused the port", reused)
			}
			t.Logf("%d of 200 reused", reused)
		})
	}
}

// closeThenAwait closes one side and, once the other has seen it, the other.
func closeThenAwait(t *testing.T, first, second *reuseport.Conn) {
	t.Helper()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, second)
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestEndedContextSendsNothing: a dial whose context has ended reaches nobody,
// from a listening port as little as from an ephemeral one.
func TestEndedContextSendsNothing(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for _, use := range []reuseport.PortUse{reuseport.PreferReuse, reuseport.NewPort, reuseport.RequireReuse} {
		var us, them reuseport.Transport
		listen(t, &us, "/ip4/127.0.0.1/tcp/0")
		l := listen(t, &them, "/ip4/127.0.0.1/tcp/0")
		var accepted atomic.Int32
		go countAccepts(l, &accepted)
		for range 100 {
			_, err := us.DialContext(reuseport.WithPortUse(ended, use), l.Multiaddr())
			wantErr(t, err, context.Canceled)
		}
		dial(t, &us, l.Multiaddr()) // the one that may arrive
		for range 100 {
			if accepted.Load() > 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n := accepted.Load(); n != 1 {
			t.Errorf("%v: %d connections arrived, want 1", use, n)
		}
	}
}

// TestContextEndsOverTakenTuple: a dial whose time runs out while it waits for a
// close of ours to free the 4-tuple says both.
func TestContextEndsOverTakenTuple(t *testing.T) {
	var us, them reuseport.Transport
	listen(t, &us, "/ip4/127.0.0.1/tcp/0")
	l := listen(t, &them, "/ip4/127.0.0.1/tcp/0")
	c := dial(t, &us, l.Multiaddr())
	accept(t, l) // never reads, so that the close stays pending
	if err := c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, err := c.ReadFrom(zeros{})
	wantErr(t, err, os.ErrDeadlineExceeded)
	c.Close()
	ctx := reuseport.WithPortUse(shortly(t, 10*time.Millisecond), reuseport.RequireReuse)
	_, err = us.DialContext(ctx, l.Multiaddr())
	wantErr(t, err, context.DeadlineExceeded, reuseport.ErrTupleInUse)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// TestContext ends the context during and after a dial.
func TestContext(t *testing.T) {
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	raddr := peer(t, "127.0.0.1:0")
	during, cancel := context.WithCancel(context.Background())
	time.AfterFunc(100*time.Millisecond, cancel)
	start := time.Now()
	_, err := tr.DialContext(during, fullListener(t))
	wantErr(t, err, context.Canceled)
	if time.Since(start) > 5*time.Second {
		t.Errorf("cancelled after %v", time.Since(start))
	}

	after, cancel := context.WithCancel(context.Background())
	c, err := tr.DialContext(after, raddr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Error("the connection ended with its context: ", err)
	}
}

// TestNoLeak dials and closes 10,000 times.
func TestNoLeak(t *testing.T) {
	n := 10000
	if testing.Short() {
		n = 1000
	}
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	raddr := peer(t, "127.0.0.1:0")
	refused := tcpMultiaddr(ownIP(), 1)
	dial(t, &tr, raddr).Close() // what the first dial starts for good
	settled(t)
	fds, goroutines := descriptors(t), runtime.NumGoroutine()
	for i := range n {
		c, err := tr.Dial(raddr)
		if err != nil {
			t.Fatalf("dial %d: %v", i, err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			tr.Dial(refused)
		}
	}
	awaitAtMost(t, "descriptors", fds, func() int { return descriptors(t) })
	awaitAtMost(t, "goroutines", goroutines, runtime.NumGoroutine)
}

// settled waits until earlier tests' goroutines are gone.
func settled(t *testing.T) {
	last := -1
	for range 100 {
		if n := runtime.NumGoroutine(); n == last {
			return
		} else {
			last = n
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func awaitAtMost(t *testing.T, what string, limit int, count func() int) {
	t.Helper()
	n := count()
	for range 100 {
		if n <= limit {
			return
		}
		time.Sleep(50 * time.Millisecond)
		n = count()
	}
	t.Errorf("%d %s, %d before", n, what, limit)
}

// descriptors counts the open ones where /proc tells.
func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}

// TestListenersComeAndGo dials in parallel while listeners open and close: no
// dial fails.
func TestListenersComeAndGo(t *testing.T) {
	var tr reuseport.Transport
	raddrs := []ma.Multiaddr{peer(t, "127.0.0.1:0"), peer(t, "127.0.0.1:0"), peer(t, "[::1]:0")}
	stop := make(chan struct{})
	var listeners, dialers sync.WaitGroup
	for _, addr := range []string{"/ip4/127.0.0.1/tcp/0", "/ip4/0.0.0.0/tcp/0", "/ip6/::1/tcp/0", "/ip6/::/tcp/0"} {
		listeners.Go(func() { openAndClose(t, &tr, parse(t, addr), stop) })
	}
	for i := range 8 {
		dialers.Go(func() { dialMany(t, &tr, raddrs[i%len(raddrs)], 300) })
	}
	dialers.Wait()
	close(stop)
	listeners.Wait()
	s := tr.Stats()
	if s.DialsFailed > 0 || s.Listeners > 0 {
		t.Errorf("%+v", s)
	}
	if s.DialsReused == 0 {
		t.Error("not one dial reused a port")
	}
}

func openAndClose(t *testing.T, tr *reuseport.Transport, addr ma.Multiaddr, stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Millisecond):
		}
		l, err := tr.Listen(addr)
		if err != nil {
			t.Error("listen: ", err)
			return
		}
		time.Sleep(time.Millisecond)
		l.Close()
	}
}

func dialMany(t *testing.T, tr *reuseport.Transport, raddr ma.Multiaddr, n int) {
	for range n {
		c, err := tr.Dial(raddr)
		if err != nil {
			t.Error("dial: ", err)
			return
		}
		c.(*reuseport.Conn).Abort()
	}
}

// TestConnIsAConn runs the suite of x/net on reused connections.
func TestConnIsAConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		var us, them reuseport.Transport
		if _, err = us.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0")); err != nil {
			return
		}
		l, err := them.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
		if err != nil {
			return
		}
		out, err := us.Dial(l.Multiaddr())
		if err != nil {
			return
		}
		if !out.(*reuseport.Conn).Reused() {
			return nil, nil, nil, errors.New("not reused")
		}
		in, err := l.Accept()
		stop = func() {
			out.Close()
			in.Close()
			us.Shutdown(context.Background())
			them.Shutdown(context.Background())
		}
		return out, in, stop, err
	})
}

// TestHTTPTransport plugs DialNetContext into an HTTP client: its requests leave
// from the listening port.
func TestHTTPTransport(t *testing.T) {
	var us, them reuseport.Transport
	l := listen(t, &us, "/ip4/127.0.0.1/tcp/0")
	remote := listen(t, &them, "/ip4/127.0.0.1/tcp/0")
	seen := make(chan string, 1)
	srv := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { seen <- r.RemoteAddr })}
	go srv.Serve(manet.NetListener(remote))
	defer srv.Close()
	client := http.Client{Transport: &http.Transport{DialContext: us.DialNetContext, DisableKeepAlives: true}}
	res, err := client.Get("http://" + remote.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if got := <-seen; got != l.Addr().String() {
		t.Errorf("request came from %s, listening on %v", got, l.Addr())
	}
}

// TestAvailable: where these tests run, ports can be reused.
func TestAvailable(t *testing.T) {
	if !reuseport.Available() {
		skip(t, "the system has no port reuse")
	}
}

// TestControl is called for listeners and dials, and its error is the answer.
func TestControl(t *testing.T) {
	refused := errors.New("refused by Control")
	tr := reuseport.Transport{Control: func(string, string, syscall.RawConn) error { return refused }}
	_, err := tr.Listen(parse(t, "/ip4/127.0.0.1/tcp/0"))
	wantErr(t, err, refused)
	_, err = tr.Dial(peer(t, "127.0.0.1:0"))
	wantErr(t, err, refused)
}
