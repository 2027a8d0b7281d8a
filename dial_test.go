//go:build !plan9

package reuseport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
)

// TestRefusedCostsOneSYN: a peer that refuses gets one SYN, whatever we listen on, and the error
// has the errno, the operation and both addresses.
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

// TestFailedDialsCount: the error of a refused dial is the same for DialNetContext, and both count.
func TestFailedDialsCount(t *testing.T) {
	var tr reuseport.Transport
	_, err := tr.Dial(tcpMultiaddr(ownIP(), 1))
	wantErr(t, err, syscall.ECONNREFUSED)
	_, err = tr.DialNetContext(t.Context(), "tcp", fmt.Sprint(ownIP(), ":1"))
	wantErr(t, err, syscall.ECONNREFUSED)
	if n := tr.Stats().DialsFailed; n != 2 {
		t.Errorf("%d failed dials, want 2", n)
	}
}

// TestWhyNotReused: where no listener fits, Cause says why.
func TestWhyNotReused(t *testing.T) {
	for name, row := range map[string]struct {
		listen string
		dial   func(own manet.Listener) ma.Multiaddr
		want   reuseport.Cause
	}{
		"its only listener": {"/ip4/127.0.0.1/tcp/0", manet.Listener.Multiaddr, reuseport.SelfConnection},
		"a peer, other family": {"/ip6/::1/tcp/0",
			func(manet.Listener) ma.Multiaddr { return peer(t, "127.0.0.1:0") }, reuseport.NoListener},
		"a peer, IPv6 alone": {"/ip6/::/tcp/0",
			func(manet.Listener) ma.Multiaddr { return peer(t, "127.0.0.1:0") }, reuseport.NoListener},
	} {
		var tr reuseport.Transport
		l := listen(t, &tr, row.listen)
		if c := dial(t, &tr, row.dial(l)); c.Reused() || c.Cause() != row.want {
			t.Errorf("%s: reused %v, %v; want %v", name, c.Reused(), c.Cause(), row.want)
		}
	}
}

// TestFallbackIsLogged: a dial that tried a listening port in vain is logged, and no other.
func TestFallbackIsLogged(t *testing.T) {
	var log strings.Builder
	tr := reuseport.Transport{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	raddr := peer(t, "127.0.0.1:0")
	dial(t, &tr, raddr)
	c, err := tr.DialContext(reuseport.WithPortUse(t.Context(), reuseport.NewPort), raddr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if log.Len() > 0 {
		t.Errorf("logged %s", &log)
	}
	dial(t, &tr, raddr)
	for _, want := range []string{"level=DEBUG", "dial fell back", "raddr=" + c.RemoteAddr().String(), `cause="4-tuple in use"`, "err="} {
		if strings.Count(log.String(), want) != 1 {
			t.Errorf("logged %q, want one %s", &log, want)
		}
	}
}

// TestTimedOutCostsOneSYN: a peer that does not answer is dialed once within the deadline.
func TestTimedOutCostsOneSYN(t *testing.T) {
	t.Parallel()
	var n atomic.Int32
	tr := reuseport.Transport{Control: attempts(&n)}
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	silent := silentListener(t)
	n.Store(0)
	start := time.Now()
	_, err := tr.DialContext(shortly(t, 300*time.Millisecond), silent)
	wantErr(t, err, context.DeadlineExceeded)
	if n.Load() != 1 || time.Since(start) > 3*time.Second {
		t.Errorf("%d attempts in %v", n.Load(), time.Since(start))
	}
}

// TestOwnListener: a Transport can dial its own listeners by each of their addresses. The
// listener accepts, and nothing is connected to itself.
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
			if strings.Contains(row.listen+row.dial, "127.0.0.7") { // only Linux has all of 127/8
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

// TestSamePortNumber: a peer may have our port number on its own address, as everyone on 4001.
func TestSamePortNumber(t *testing.T) {
	linuxOnly(t)
	var us, them reuseport.Transport
	port := ownPort()
	l := listen(t, &us, tcpMultiaddr(localhost, port).String())
	remote := listen(t, &them, tcpMultiaddr(ownIP(), port).String())
	c := dial(t, &us, remote.Multiaddr())
	if !c.Reused() || portOf(c.LocalAddr()) != portOf(l.Addr()) {
		t.Errorf("from %v, reused %t: %v", c.LocalAddr(), c.Reused(), c.Cause())
	}
}

// TestDualStackDialsBothFamilies: dials to IPv4 and IPv6 leave from the port of one dual-stack
// listener.
func TestDualStackDialsBothFamilies(t *testing.T) {
	var tr reuseport.Transport
	l := listenPort(t, &tr)
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		c := dial(t, &tr, peer(t, address))
		if !c.Reused() || portOf(c.LocalAddr()) != portOf(l.Addr()) {
			t.Errorf("to %s from %v, reused %t, listening on %v", address, c.LocalAddr(), c.Reused(), l.Addr())
		}
	}
}

// TestSecondDialFallsBack: a second dial to one peer leaves from an ephemeral port. The
// connection and Stats say why.
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

// TestTwoListenersSpread: where the 4-tuple of one listener's port is taken, a dial leaves from
// the other listener's.
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

// TestRedialAfterClose: after either side has closed, a peer can be redialed from the listening
// port.
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

// closeThenAwait closes one side and, once the other has read EOF, the other.
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

// TestContext: a context that ends during a dial ends it, and after a dial it has no effect.
func TestContext(t *testing.T) {
	t.Parallel()
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	raddr := peer(t, "127.0.0.1:0")
	during, cancel := context.WithCancel(context.Background())
	time.AfterFunc(100*time.Millisecond, cancel)
	start := time.Now()
	_, err := tr.DialContext(during, silentListener(t))
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

// TestHTTPTransport: the requests of an HTTP client with our DialNetContext leave from the
// listening port.
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
