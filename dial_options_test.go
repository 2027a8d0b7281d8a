//go:build !plan9

package reuseport_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptrace"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/reusetransport/reuseport"
)

// TestTimeout: a dial ends at Timeout, with its look-up, and a negative one at once.
func TestTimeout(t *testing.T) {
	linuxOnly(t)
	resolveBy(t)
	for _, timeout := range []time.Duration{100 * time.Millisecond, -1} {
		tr := reuseport.Transport{Timeout: timeout}
		start := time.Now()
		_, err := tr.DialNetContext(t.Context(), "tcp", "silent.test:80")
		wantErr(t, err, context.DeadlineExceeded)
		if e, ok := err.(net.Error); !ok || !e.Timeout() {
			t.Errorf("%v is no timeout", err)
		}
		if d := time.Since(start); d > 4*time.Second { // the resolver gives up after 5 s
			t.Errorf("Timeout %v: took %v", timeout, d)
		}
	}
}

// TestResolver: names and services are looked up by Resolver.
func TestResolver(t *testing.T) {
	resolveBy(t, "127.0.0.1")
	port := portOf(dialedListener(t).Addr())
	var asked atomic.Int32
	tr := reuseport.Transport{Resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		asked.Add(1)
		return net.DefaultResolver.Dial(ctx, network, address)
	}}}
	c, err := tr.DialNetContext(t.Context(), "tcp", net.JoinHostPort("peer.test", fmt.Sprint(port)))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if asked.Load() == 0 {
		t.Error("Resolver was not asked")
	}
}

// dialedListener returns a listener of package net that somebody accepts from.
func dialedListener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go acceptEach(l.Accept, discard)
	return l
}

type contextKey struct{}

// TestControlContext: dials call ControlContext with their context, and not Control, which
// listeners go on calling. Its error is the dial's.
func TestControlContext(t *testing.T) {
	raddr := peer(t, "127.0.0.1:0")
	refused := errors.New("refused by ControlContext")
	var byControl, bySomething, byNothing atomic.Int32
	tr := reuseport.Transport{
		Control: attempts(&byControl),
		ControlContext: func(ctx context.Context, network, address string, c syscall.RawConn) error {
			switch ctx.Value(contextKey{}) {
			case "something":
				bySomething.Add(1)
				return nil
			case nil:
				byNothing.Add(1)
				return nil
			}
			return refused
		},
	}
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	listened := byControl.Load()
	for _, use := range []reuseport.PortUse{reuseport.PreferReuse, reuseport.NewPort} {
		ctx := reuseport.WithPortUse(t.Context(), use)
		for _, value := range []any{"something", nil, "else"} {
			c, err := tr.DialContext(context.WithValue(ctx, contextKey{}, value), raddr)
			if (value == "else") != errors.Is(err, refused) {
				t.Errorf("%v, %v: %v", use, value, err)
			}
			if err == nil {
				abort(t, c.(*reuseport.Conn))
			}
		}
	}
	if listened == 0 || byControl.Load() != listened || bySomething.Load() != 2 || byNothing.Load() != 2 {
		t.Errorf("Control %d times after %d; ControlContext %d and %d times", byControl.Load(), listened, bySomething.Load(), byNothing.Load())
	}
}

// TestWithLocalAddr: a dial leaves from the listener that the context names, and from no other.
func TestWithLocalAddr(t *testing.T) {
	linuxOnly(t)
	raddr := peer(t, "127.0.0.1:0")
	var tr reuseport.Transport
	var ports []netip.AddrPort
	for _, s := range []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.2/tcp/0", "/ip4/0.0.0.0/tcp/0"} {
		ports = append(ports, netip.MustParseAddrPort(listen(t, &tr, s).Addr().String()))
	}
	dual := uint16(portOf(listenPort(t, &tr).Addr()))
	ports = append(ports, netip.AddrPortFrom(netip.IPv4Unspecified(), dual), netip.AddrPortFrom(netip.IPv6Unspecified(), dual))
	for _, laddr := range ports {
		c, err := tr.DialContext(reuseport.WithLocalAddr(required(t), laddr), raddr)
		if err != nil {
			t.Fatalf("%v: %v", laddr, err)
		}
		local := netip.MustParseAddrPort(c.LocalAddr().String())
		if local.Port() != laddr.Port() || !laddr.Addr().IsUnspecified() && local != laddr || !c.(*reuseport.Conn).Reused() {
			t.Errorf("%v: left from %v", laddr, local)
		}
		abort(t, c.(*reuseport.Conn))
	}
	nobody := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), ports[1].Port())
	ctx := reuseport.WithLocalAddr(t.Context(), nobody)
	_, err := tr.DialContext(ctx, raddr)
	wantErr(t, err, reuseport.ErrNoReuse)
	if _, ok := err.(net.Error); !ok {
		t.Errorf("%v is no net.Error", err)
	}
	_, err = tr.Punch(ctx, raddr)
	wantErr(t, err, reuseport.ErrNoReuse)
	c, err := tr.DialContext(reuseport.WithPortUse(ctx, reuseport.NewPort), raddr)
	if err != nil {
		t.Fatal(err)
	}
	abort(t, c.(*reuseport.Conn))
}

// TestWithLocalAddrFallsBack: where the 4-tuple of the chosen listener is taken, the dial leaves
// from an ephemeral port and from no other listener's.
func TestWithLocalAddrFallsBack(t *testing.T) {
	raddr := peer(t, "127.0.0.1:0")
	var tr reuseport.Transport
	chosen := netip.MustParseAddrPort(listen(t, &tr, "/ip4/127.0.0.1/tcp/0").Addr().String())
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	ctx := reuseport.WithLocalAddr(t.Context(), chosen)
	for _, want := range []reuseport.Cause{reuseport.NoCause, reuseport.TupleInUse} {
		c, err := tr.DialContext(ctx, raddr)
		if err != nil {
			t.Fatal(err)
		}
		defer abort(t, c.(*reuseport.Conn))
		if got := c.(*reuseport.Conn).Cause(); got != want {
			t.Errorf("cause %v, want %v", got, want)
		}
	}
}

// A traceLog is what the hooks of net/http/httptrace are told.
type traceLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *traceLog) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *traceLog) in(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSStart:     func(info httptrace.DNSStartInfo) { l.add("look up %s", info.Host) },
		DNSDone:      func(info httptrace.DNSDoneInfo) { l.add("found %v, %v", info.Addrs, info.Err) },
		ConnectStart: func(network, addr string) { l.add("connect %s", addr) },
		ConnectDone:  func(network, addr string, err error) { l.add("connected %s %v", addr, err != nil) },
	})
}

// TestHTTPTrace: the hooks are told of our dials what they are told of net.Dialer's.
func TestHTTPTrace(t *testing.T) {
	resolveBy(t, "127.0.0.1")
	live := portOf(dialedListener(t).Addr())
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	for _, address := range []string{
		fmt.Sprint("127.0.0.1:", live), fmt.Sprint("127.0.0.1:", ownPort()), fmt.Sprint("peer.test:", live), "unknown.test:80",
	} {
		var want traceLog
		if c, err := new(net.Dialer).DialContext(want.in(t.Context()), "tcp4", address); err == nil {
			c.Close()
		}
		for _, use := range []reuseport.PortUse{reuseport.PreferReuse, reuseport.NewPort} {
			var got traceLog
			if c, err := tr.DialNetContext(reuseport.WithPortUse(got.in(t.Context()), use), "tcp4", address); err == nil {
				abort(t, c.(*reuseport.Conn))
			}
			if !slices.Equal(got.lines, want.lines) {
				t.Errorf("%s, %v: %q, and of net.Dialer %q", address, use, got.lines, want.lines)
			}
		}
	}
}

// TestDialErrorsAreNetErrors: every error of a dial is a net.Error, and a single one is an
// *net.OpError.
func TestDialErrorsAreNetErrors(t *testing.T) {
	resolveBy(t, "127.0.0.1")
	raddr := peer(t, "127.0.0.1:0")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var shut, listening, bare reuseport.Transport
	if err := shut.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	listen(t, &listening, "/ip4/127.0.0.1/tcp/0")
	holder := dial(t, &listening, raddr)
	defer abort(t, holder)
	byAddr := func(tr *reuseport.Transport, ctx context.Context, address string) error {
		_, err := tr.DialNetContext(ctx, "tcp", address)
		return err
	}
	for what, row := range map[string]struct {
		err  error
		want error
	}{
		"refused":         {byAddr(&listening, t.Context(), fmt.Sprint("127.0.0.1:", ownPort())), syscall.ECONNREFUSED},
		"name refused":    {byAddr(&listening, t.Context(), fmt.Sprint("peer.test:", ownPort())), syscall.ECONNREFUSED},
		"canceled":        {byAddr(&listening, ended, fmt.Sprint("127.0.0.1:", ownPort())), context.Canceled},
		"shut down":       {byAddr(&shut, t.Context(), "127.0.0.1:80"), net.ErrClosed},
		"name, shut down": {byAddr(&shut, t.Context(), "peer.test:80"), net.ErrClosed},
		"no port":         {byAddr(&bare, t.Context(), "127.0.0.1"), nil},
		"network":         {second(bare.DialNetContext(t.Context(), "udp", "127.0.0.1:80")), reuseport.ErrWrongProto},
		"multiaddr":       {second(bare.Dial(parse(t, "/ip4/127.0.0.1/udp/80"))), reuseport.ErrWrongProto},
		"no listener":     {second(bare.DialContext(required(t), raddr)), reuseport.ErrNoReuse},
		"4-tuple in use":  {second(listening.DialContext(required(t), raddr)), reuseport.ErrTupleInUse},
		"PortUse":         {second(bare.DialContext(reuseport.WithPortUse(t.Context(), 99), raddr)), reuseport.ErrBadPortUse},
	} {
		if row.err == nil || row.want != nil && !errors.Is(row.err, row.want) {
			t.Errorf("%s: %v, want %v", what, row.err, row.want)
		}
		if _, ok := row.err.(*net.OpError); !ok {
			t.Errorf("%s: %T, want *net.OpError", what, row.err)
		}
	}
}

func second[A any](_ A, err error) error { return err }
