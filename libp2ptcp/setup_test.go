package libp2ptcp_test

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/libp2ptcp"
	"github.com/reusetransport/reuseport/promstats"
)

// patience bounds waits that take milliseconds on an idle machine.
const patience = 20 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

// eventually waits until ok returns true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// peerSetup is what an upgrader is made from. Nil fields mean go-libp2p's defaults.
type peerSetup struct {
	security string // "noise" (default) or "tls"
	rcmgr    network.ResourceManager
	gater    connmgr.ConnectionGater
}

// securities are the handshakes that go-libp2p hosts offer.
var securities = map[string]func(crypto.PrivKey, []upgrader.StreamMuxer) (sec.SecureTransport, error){
	"": func(k crypto.PrivKey, m []upgrader.StreamMuxer) (sec.SecureTransport, error) {
		return noise.New(noise.ID, k, m)
	},
	"tls": func(k crypto.PrivKey, m []upgrader.StreamMuxer) (sec.SecureTransport, error) {
		return libp2ptls.New(libp2ptls.ID, k, m)
	},
}

// upgrader makes an identity and the upgrader of its host.
func (s peerSetup) upgrader(t testing.TB) (peer.ID, transport.Upgrader) {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(nil)
	check(t, err)
	id, err := peer.IDFromPrivateKey(key)
	check(t, err)
	muxers := []upgrader.StreamMuxer{{ID: yamux.ID, Muxer: yamux.DefaultTransport}}
	st, err := securities[s.security](key, muxers)
	check(t, err)
	u, err := upgrader.New([]sec.SecureTransport{st}, muxers, nil, s.rcmgr, s.gater)
	check(t, err)
	return id, u
}

// transport makes a Transport that is closed when the test ends.
func (s peerSetup) transport(t testing.TB, opts ...libp2ptcp.Option) (peer.ID, *libp2ptcp.Transport) {
	t.Helper()
	id, u := s.upgrader(t)
	tr, err := libp2ptcp.New(u, s.rcmgr, nil, opts...)
	check(t, err)
	t.Cleanup(func() { check(t, tr.Close()) })
	return id, tr
}

// listen listens until the end of the test. It closes each connection when the other
// side does.
func listen(t testing.TB, tr transport.Transport, addr string) ma.Multiaddr {
	t.Helper()
	l, err := tr.Listen(ma.StringCast(addr))
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			context.AfterFunc(ctx, func() { c.Close() }) // usually closed before
			wg.Go(func() { serve(c) })
		}
	})
	t.Cleanup(func() {
		check(t, l.Close())
		cancel()
		wg.Wait()
	})
	return l.Multiaddr()
}

// serve answers each stream with what it reads, until the connection ends.
func serve(c transport.CapableConn) {
	defer c.Close() // nothing is outstanding
	for s, err := c.AcceptStream(); err == nil; s, err = c.AcceptStream() {
		go answer(s)
	}
}

func answer(s io.ReadWriteCloser) {
	_, err := io.Copy(s, s)
	if err = errors.Join(err, s.Close()); err != nil && !errors.Is(err, network.ErrReset) {
		panic(err)
	}
}

// rawPeer listens with plain TCP and runs serve for each connection.
func rawPeer(t testing.TB, serve func(net.Conn)) ma.Multiaddr {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	check(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			serve(c)
			check(t, c.Close())
		}
	}()
	t.Cleanup(func() {
		check(t, l.Close())
		<-done
	})
	return tcpAddr(t, l.Addr())
}

func tcpAddr(t testing.TB, a net.Addr) ma.Multiaddr {
	t.Helper()
	m, err := manet.FromNetAddr(a)
	check(t, err)
	return m
}

// ours and stock are the two transports under comparison.
func ours(opts ...any) libp2p.Option { return libp2p.Transport(libp2ptcp.New, opts...) }

func stock() libp2p.Option { return libp2p.Transport(tcp.NewTCPTransport) }

// newHost makes a host on loopback that is closed when the test ends.
func newHost(t testing.TB, opts ...libp2p.Option) host.Host {
	t.Helper()
	h, err := libp2p.New(append([]libp2p.Option{
		libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"),
		libp2p.DisableMetrics(),
		libp2p.DisableRelay(),
	}, opts...)...)
	check(t, err)
	t.Cleanup(func() { check(t, h.Close()) })
	return h
}

// connect makes a dial b.
func connect(t testing.TB, a, b host.Host) network.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	check(t, a.Connect(ctx, *host.InfoFromHost(b)))
	return a.Network().ConnsToPeer(b.ID())[0]
}

// echo makes h send back what it reads on a protocol.
func echo(h host.Host) {
	h.SetStreamHandler("/echo", func(s network.Stream) { answer(s) })
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

// refusing returns an address that refuses connections.
func refusing(t testing.TB) ma.Multiaddr {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	check(t, err)
	check(t, l.Close())
	return tcpAddr(t, l.Addr())
}

func punching(ctx context.Context) context.Context {
	return network.WithSimultaneousConnect(ctx, true, "test")
}

// metric returns the value of one metric. label is the value of its only label, if it
// has one. A missing metric fails the test.
func metric(t testing.TB, reg *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := reg.Gather()
	check(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && labelOf(m) == label {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() // one of them is nil
			}
		}
	}
	t.Fatalf("no metric %s{%q}", name, label)
	return 0
}

func labelOf(m *dto.Metric) string {
	if len(m.GetLabel()) == 0 {
		return ""
	}
	return m.GetLabel()[0].GetValue()
}

// metricNames returns the names of all metrics.
func metricNames(t testing.TB) (names []string) {
	t.Helper()
	reg := prometheus.NewRegistry()
	peerSetup{}.transport(t, libp2ptcp.WithMetrics(reg))
	families, err := reg.Gather()
	check(t, err)
	for _, f := range families {
		names = append(names, f.GetName())
	}
	return names
}

// ownMetricNames returns the names of the metrics that are not promstats'.
func ownMetricNames(t testing.TB) (names []string) {
	t.Helper()
	reg := prometheus.NewRegistry()
	check(t, reg.Register(new(promstats.Collector)))
	families, err := reg.Gather()
	check(t, err)
	for _, name := range metricNames(t) {
		if !slices.ContainsFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == name }) {
			names = append(names, name)
		}
	}
	if len(names) == 0 || len(families) < 10 {
		t.Fatalf("%d metrics of promstats, and %v", len(families), names)
	}
	return names
}
