package fit

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/cloudflare/tableflip"
	"github.com/lib/pq"
	"github.com/redis/go-redis/v9"
	"golang.org/x/net/proxy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/serve"
)

var (
	_ proxy.Dialer        = reuseport.Net{}
	_ proxy.ContextDialer = reuseport.Net{}
	_ pq.Dialer           = reuseport.Net{}
	_ pq.DialerContext    = reuseport.Net{}
	_ tableflip.Listener  = (*reuseport.NetListener)(nil)

	_ = redis.Options{Dialer: new(reuseport.Transport).DialNetContext}
	_ = http.Transport{DialContext: new(reuseport.Transport).DialNetContext}
	_ = tls.NewListener(new(reuseport.NetListener), nil)
	_ = func(s *serve.Server, l *reuseport.NetListener) error { return s.Serve(l) }
	_ = func(f *tableflip.Fds, l *reuseport.NetListener) error { return f.AddListener("tcp", "", l) }
)

// listen listens on loopback until the test ends.
func listen(t *testing.T, tr *reuseport.Transport) net.Listener {
	t.Helper()
	l, err := tr.Net().Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestGRPC: a gRPC server accepts from a NetListener, and a client's connection leaves from the
// listening port.
func TestGRPC(t *testing.T) {
	var us, them reuseport.Transport
	seen := make(chan net.Addr, 1)
	srv := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		p, _ := peer.FromContext(ctx)
		seen <- p.Addr
		return handle(ctx, req)
	}))
	grpc_health_v1.RegisterHealthServer(srv, health.NewServer())
	l := listen(t, &them)
	go srv.Serve(l)
	defer srv.Stop()
	ours := listen(t, &us)
	client, err := grpc.NewClient("passthrough:"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return us.DialNetContext(ctx, "tcp", address)
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := grpc_health_v1.NewHealthClient(client).Check(ctx, &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := <-seen; got.String() != ours.Addr().String() {
		t.Errorf("the server saw %v, listening on %v", got, ours.Addr())
	}
}

// TestProxy: a SOCKS client's connection to its proxy leaves from the listening port. The proxy is a
// listener that nobody answers at.
func TestProxy(t *testing.T) {
	var us, them reuseport.Transport
	server, ours := listen(t, &them), listen(t, &us)
	d, err := proxy.SOCKS5("tcp", server.Addr().String(), nil, us.Net())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := d.(proxy.ContextDialer).DialContext(ctx, "tcp", "127.0.0.1:9"); err == nil {
		t.Error("the silent proxy connected us")
	}
	c, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.RemoteAddr().String() != ours.Addr().String() {
		t.Errorf("the proxy saw %v, listening on %v", c.RemoteAddr(), ours.Addr())
	}
}

// TestTLS: crypto/tls on both sides, and the connections beneath are found.
func TestTLS(t *testing.T) {
	var us, them reuseport.Transport
	template := httptest.NewTLSServer(nil)
	defer template.Close()
	l := tls.NewListener(listen(t, &them), template.TLS)
	listen(t, &us)
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			err = c.(*tls.Conn).Handshake()
		}
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	raw, err := us.Net().DialTimeout("tcp", l.Addr().String(), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	config := template.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName = "example.com"
	client := tls.Client(raw, config)
	if err := client.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server := <-accepted
	defer server.Close()
	for side, c := range map[string]net.Conn{"client": client, "server": server} {
		if conn, ok := reuseport.ConnOf(c); !ok || (side == "client") != conn.Reused() {
			t.Errorf("%s: found %v", side, ok)
		}
	}
}
