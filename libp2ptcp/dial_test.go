package libp2ptcp_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/transport/tcpreuse"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/libp2ptcp"
)

// TestOptions wants nonsense refused when the transport is made.
func TestOptions(t *testing.T) {
	taken := prometheus.NewRegistry()
	check(t, taken.Register(prometheus.NewGauge(prometheus.GaugeOpts{Name: "reuseport_listeners", Help: "Mine."})))
	_, u := peerSetup{}.upgrader(t)
	for name, tt := range map[string]struct {
		shared *tcpreuse.ConnMgr
		opt    libp2ptcp.Option
		want   error // nil = any
	}{
		"no transport":    {nil, libp2ptcp.WithTransport(nil), libp2ptcp.ErrBadOption},
		"no registerer":   {nil, libp2ptcp.WithMetrics(nil), libp2ptcp.ErrBadOption},
		"no function":     {nil, libp2ptcp.WithPortUse(nil), libp2ptcp.ErrBadOption},
		"metric taken":    {nil, libp2ptcp.WithMetrics(taken), nil},
		"shared listener": {tcpreuse.NewConnMgr(true, u), libp2ptcp.WithConnectionTimeout(0), libp2ptcp.ErrSharedListener},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := libp2ptcp.New(u, nil, tt.shared, tt.opt)
			if err == nil {
				t.Fatal("no error")
			}
			if tt.want != nil {
				wantErr(t, err, tt.want)
			}
		})
	}
}

func TestCanDial(t *testing.T) {
	_, tr := peerSetup{}.transport(t)
	for addr, want := range map[string]bool{
		"/ip4/192.0.2.1/tcp/1":              true,
		"/ip6/2001:db8::1/tcp/1":            true,
		"/ip6zone/eth0/ip6/fe80::1/tcp/1":   true,
		"/dns4/example.org/tcp/1":           false,
		"/ip4/192.0.2.1":                    false,
		"/ip4/192.0.2.1/udp/1":              false,
		"/ip4/192.0.2.1/tcp/1/ws":           false,
		"/ip4/192.0.2.1/udp/1/quic-v1":      false,
		"/unix/a":                           false,
		"/ip4/192.0.2.1/tcp/1/p2p-circuit/": false,
	} {
		if tr.CanDial(ma.StringCast(addr)) != want {
			t.Errorf("CanDial(%s) is %t", addr, !want)
		}
	}
}

func TestListenIsExclusive(t *testing.T) {
	_, a := peerSetup{}.transport(t)
	_, b := peerSetup{}.transport(t)
	addr := listen(t, a, "/ip4/127.0.0.1/tcp/0")
	_, err := b.Listen(addr)
	wantErr(t, err, syscall.EADDRINUSE)
}

// TestDialUpdates wants one update from a dial whose TCP connects, and none
// otherwise.
func TestDialUpdates(t *testing.T) {
	peerA, a := peerSetup{}.transport(t)
	_, b := peerSetup{}.transport(t)
	for name, tt := range map[string]struct {
		raddr ma.Multiaddr
		want  int
	}{
		"connected":       {listen(t, a, "/ip4/127.0.0.1/tcp/0"), 1},
		"handshake fails": {rawPeer(t, func(net.Conn) {}), 1},
		"refused":         {refusing(t), 0},
	} {
		updates := make(chan transport.DialUpdate, 2)
		if c, err := b.DialWithUpdates(t.Context(), tt.raddr, peerA, updates); err == nil {
			defer c.Close()
		}
		if len(updates) != tt.want {
			t.Errorf("%s: %d updates, want %d", name, len(updates), tt.want)
			continue
		}
		if tt.want == 1 {
			if u := <-updates; u.Kind != transport.UpdateKindHandshakeProgressed || !u.Addr.Equal(tt.raddr) {
				t.Errorf("%s: update %+v", name, u)
			}
		}
	}
	full := make(chan transport.DialUpdate)
	c, err := b.DialWithUpdates(t.Context(), listen(t, a, "/ip4/127.0.0.1/tcp/0"), peerA, full)
	check(t, err) // nobody reads updates: it did not wait
	check(t, c.Close())
}

// tcpOf dials and returns the TCP connection below.
func tcpOf(t testing.TB, ctx context.Context, tr transport.Transport, raddr ma.Multiaddr, p peer.ID) *reuseport.Conn {
	t.Helper()
	c, err := tr.Dial(ctx, raddr, p)
	check(t, err)
	t.Cleanup(func() { check(t, c.Close()) })
	var tcp *reuseport.Conn
	if !c.As(&tcp) {
		t.Fatalf("%v has no *reuseport.Conn", c)
	}
	return tcp
}

// TestPortUse walks through who may say from which port a dial leaves.
func TestPortUse(t *testing.T) {
	always := func(use reuseport.PortUse) libp2ptcp.Option {
		return libp2ptcp.WithPortUse(func(context.Context, ma.Multiaddr, peer.ID) reuseport.PortUse { return use })
	}
	on := func(use reuseport.PortUse) libp2ptcp.Option {
		return libp2ptcp.WithTransport(&reuseport.Transport{PortUse: use})
	}
	with := func(use reuseport.PortUse) func(context.Context) context.Context {
		return func(ctx context.Context) context.Context { return reuseport.WithPortUse(ctx, use) }
	}
	for name, tt := range map[string]struct {
		opts   []libp2ptcp.Option
		ctx    func(context.Context) context.Context
		reused bool
	}{
		"as it comes":             {nil, nil, true},
		"Transport":               {[]libp2ptcp.Option{on(reuseport.NewPort)}, nil, false},
		"function":                {[]libp2ptcp.Option{always(reuseport.NewPort)}, nil, false},
		"function > Transport":    {[]libp2ptcp.Option{on(reuseport.NewPort), always(reuseport.RequireReuse)}, nil, true},
		"context > Transport":     {[]libp2ptcp.Option{on(reuseport.NewPort)}, with(reuseport.PreferReuse), true},
		"context > function":      {[]libp2ptcp.Option{always(reuseport.PreferReuse)}, with(reuseport.NewPort), false},
		"a punch from a new port": {nil, func(ctx context.Context) context.Context { return with(reuseport.NewPort)(punching(ctx)) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			peerA, a := peerSetup{}.transport(t)
			raddr := listen(t, a, "/ip4/127.0.0.1/tcp/0")
			_, b := peerSetup{}.transport(t, tt.opts...)
			laddr := listen(t, b, "/ip4/127.0.0.1/tcp/0")
			ctx := t.Context()
			if tt.ctx != nil {
				ctx = tt.ctx(ctx)
			}
			c := tcpOf(t, ctx, b, raddr, peerA)
			if c.Reused() != tt.reused || c.LocalMultiaddr().Equal(laddr) != tt.reused {
				t.Errorf("reused: %t, from %v, cause %v", c.Reused(), c.LocalMultiaddr(), c.Cause())
			}
		})
	}
}

// TestDialBack is what AutoNAT does: go-libp2p makes a second instance of the
// transport, with the same options, that never listens.
func TestDialBack(t *testing.T) {
	var r reuseport.Transport
	peerA, a := peerSetup{}.transport(t)
	raddr := listen(t, a, "/ip4/127.0.0.1/tcp/0")
	_, host := peerSetup{}.transport(t, libp2ptcp.WithTransport(&r))
	_, dialBack := peerSetup{}.transport(t, libp2ptcp.WithTransport(&r))
	listen(t, host, "/ip4/127.0.0.1/tcp/0")
	if c := tcpOf(t, t.Context(), dialBack, raddr, peerA); c.Reused() || c.Cause() != reuseport.ByPolicy {
		t.Errorf("the dial-back is reused: %t, cause %v", c.Reused(), c.Cause())
	}
	if c := tcpOf(t, t.Context(), host, raddr, peerA); !c.Reused() {
		t.Errorf("the host's own dial is not reused: %v", c.Cause())
	}
}

// TestSwarmDropsContext pins why WithPortUse of this package exists: the values of
// a context that goes into a host do not come out at its transport. When this test
// fails go-libp2p has changed, and the comments that rely on it are wrong.
func TestSwarmDropsContext(t *testing.T) {
	var tcp *reuseport.Conn
	a, b := newHost(t, ours()), newHost(t, stock())
	ctx := reuseport.WithPortUse(t.Context(), reuseport.NewPort)
	check(t, a.Connect(ctx, *host.InfoFromHost(b)))
	if c := a.Network().ConnsToPeer(b.ID())[0]; !c.As(&tcp) || !tcp.Reused() {
		t.Errorf("reuseport.WithPortUse reached the transport: %v", c)
	}
	choose := libp2ptcp.WithPortUse(func(_ context.Context, _ ma.Multiaddr, p peer.ID) reuseport.PortUse {
		if p == b.ID() {
			return reuseport.NewPort
		}
		return reuseport.PreferReuse
	})
	if c := connect(t, newHost(t, ours(choose)), b); !c.As(&tcp) || tcp.Reused() {
		t.Errorf("libp2ptcp.WithPortUse was not heeded: %v", c)
	}
}

// TestOffSwitch starts itself again with the switch of go-libp2p's transport.
func TestOffSwitch(t *testing.T) {
	const env = "LIBP2P_TCP_REUSEPORT"
	if os.Getenv(env) != "" {
		peerA, a := peerSetup{}.transport(t)
		raddr := listen(t, a, "/ip4/127.0.0.1/tcp/0")
		_, b := peerSetup{}.transport(t)
		listen(t, b, "/ip4/127.0.0.1/tcp/0")
		ctx := reuseport.WithPortUse(t.Context(), reuseport.RequireReuse)
		if c := tcpOf(t, ctx, b, raddr, peerA); c.Reused() || c.Cause() != reuseport.ByPolicy {
			t.Errorf("switched off, and reused: %t, cause %v", c.Reused(), c.Cause())
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestOffSwitch$", "-test.v")
	cmd.Env = append(os.Environ(), env+"=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestPunch lets two transports punch each other, with the roles that the contexts
// give them, whoever's SYN is first. On loopback one SYN is often there before the
// other side has begun to punch. Then the listener has the connection, and the host
// that listens has it even if its punch ends with ErrPeerFirst.
func TestPunch(t *testing.T) {
	var outcomes struct{ both, one int }
	for range 8 {
		peerA, a := peerSetup{}.transport(t)
		peerB, b := peerSetup{}.transport(t)
		addrA, addrB := listen(t, a, "/ip4/127.0.0.1/tcp/0"), listen(t, b, "/ip4/127.0.0.1/tcp/0")
		var ab, ba transport.CapableConn
		var errA, errB error
		var wg sync.WaitGroup
		wg.Go(func() { ab, errA = a.Dial(network.WithSimultaneousConnect(t.Context(), true, ""), addrB, peerB) })
		wg.Go(func() { ba, errB = b.Dial(network.WithSimultaneousConnect(t.Context(), false, ""), addrA, peerA) })
		wg.Wait()
		switch {
		case errA == nil && errB == nil:
			outcomes.both++
			wantPunched(t, ab, ba, addrA, addrB)
			check(t, errors.Join(ab.Close(), ba.Close()))
		case errA == nil && errors.Is(errB, libp2ptcp.ErrPeerFirst):
			outcomes.one++
			check(t, ab.Close())
		case errB == nil && errors.Is(errA, libp2ptcp.ErrPeerFirst):
			outcomes.one++
			check(t, ba.Close())
		default:
			t.Errorf("a: %v; b: %v", errA, errB)
		}
	}
	t.Logf("%+v", outcomes)
}

// wantPunched wants ab and ba to be one connection between the listening ports.
func wantPunched(t testing.TB, ab, ba transport.CapableConn, addrA, addrB ma.Multiaddr) {
	t.Helper()
	if !ab.LocalMultiaddr().Equal(addrA) || !ab.RemoteMultiaddr().Equal(ba.LocalMultiaddr()) || !ba.LocalMultiaddr().Equal(addrB) {
		t.Errorf("%v and %v are not one connection between the listening ports", ab, ba)
	}
	talk(t, ab, ba)
}

// TestPunchSparesOthers asks a host to punch where another peer is connected: that
// peer's connection stays.
func TestPunchSparesOthers(t *testing.T) {
	peerA, a := peerSetup{}.transport(t)
	addrA := listen(t, a, "/ip4/127.0.0.1/tcp/0")
	_, b := peerSetup{}.transport(t)
	addrB := listen(t, b, "/ip4/127.0.0.1/tcp/0")
	c, err := b.Dial(t.Context(), addrA, peerA)
	check(t, err)
	defer c.Close()
	other, _ := peerSetup{}.upgrader(t)
	_, err = a.Dial(punching(t.Context()), addrB, other)
	wantErr(t, err, reuseport.ErrTupleInUse)
	s, err := c.OpenStream(t.Context())
	check(t, err)
	_, err = s.Write([]byte("still there"))
	check(t, errors.Join(err, s.CloseWrite()))
	got, err := io.ReadAll(s)
	if err != nil || string(got) != "still there" {
		t.Errorf("%q came back, %v", got, err)
	}
}

// talk opens a stream from a to b and waits until it is there.
func talk(t testing.TB, a, b transport.CapableConn) {
	t.Helper()
	s, err := a.OpenStream(t.Context())
	check(t, err)
	_, err = s.Write([]byte("hello"))
	check(t, err)
	_, err = b.AcceptStream()
	check(t, err)
}

// blackHole is an address that answers no SYN: its accept queue is full.
func blackHole(t testing.TB) ma.Multiaddr {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	check(t, err)
	t.Cleanup(func() { check(t, syscall.Close(fd)) })
	check(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	check(t, syscall.Listen(fd, 0)) // which has room for one
	name, err := syscall.Getsockname(fd)
	check(t, err)
	addr := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*syscall.SockaddrInet4).Port}
	first, err := net.Dial("tcp4", addr.String()) // fills the queue
	check(t, err)
	t.Cleanup(func() { check(t, first.Close()) })
	return tcpAddr(t, addr)
}

func TestConnectionTimeout(t *testing.T) {
	for name, tt := range map[string]struct {
		timeout, ctx time.Duration
		least, most  time.Duration
	}{
		"short":            {200 * time.Millisecond, time.Minute, 200 * time.Millisecond, 3 * time.Second},
		"default":          {0, time.Minute, 4 * time.Second, 20 * time.Second},
		"none":             {-1, 7 * time.Second, 6 * time.Second, 25 * time.Second},
		"context is first": {time.Minute, 200 * time.Millisecond, 200 * time.Millisecond, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, b := peerSetup{}.transport(t, libp2ptcp.WithConnectionTimeout(tt.timeout))
			ctx, cancel := context.WithTimeout(t.Context(), tt.ctx)
			defer cancel()
			began := time.Now()
			_, err := b.Dial(ctx, blackHole(t), p)
			var timeout net.Error
			if !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("error %v, want a timeout", err)
			}
			if took := time.Since(began); took < tt.least || took > tt.most {
				t.Errorf("gave up after %v, want %v to %v", took, tt.least, tt.most)
			}
		})
	}
}

// TestClose ends a transport: its own reuseport.Transport is shut down, a caller's
// goes on.
func TestClose(t *testing.T) {
	id, tr := peerSetup{}.transport(t)
	check(t, tr.Close())
	_, err := tr.Dial(t.Context(), refusing(t), id)
	wantErr(t, err, net.ErrClosed)
	_, err = tr.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
	wantErr(t, err, net.ErrClosed)

	var r reuseport.Transport
	_, tr = peerSetup{}.transport(t, libp2ptcp.WithTransport(&r))
	check(t, tr.Close())
	l, err := r.ListenPort(0)
	check(t, err)
	check(t, l.Close())
}
