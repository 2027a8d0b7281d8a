package libp2ptcp_test

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/transport/tcpreuse"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/libp2ptcp"
)

// TestOptions wants New to refuse invalid options.
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

// blackHole returns an address that answers no SYN, because its accept queue is full.
func blackHole(t testing.TB) ma.Multiaddr {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	check(t, err)
	t.Cleanup(func() { check(t, syscall.Close(fd)) })
	check(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	check(t, syscall.Listen(fd, 0)) // room for one
	name, err := syscall.Getsockname(fd)
	check(t, err)
	addr := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*syscall.SockaddrInet4).Port}
	first, err := net.Dial("tcp4", addr.String()) // fills the queue
	check(t, err)
	t.Cleanup(func() { check(t, first.Close()) })
	return tcpAddr(t, addr)
}

// TestPortUse checks who decides which port a dial leaves from, and who takes
// precedence.
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
		"default":                 {nil, nil, true},
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

// TestSwarmDropsContext pins why this package has WithPortUse: the values of a
// context that is given to a host do not reach its transport. If this test fails,
// go-libp2p has changed, and the comments that rely on it are wrong.
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
