//go:build !plan9

package reuseport_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
)

// The signatures by which a Transport stands in for go-libp2p's p2p/net/reuseport and for
// go-reuseport-transport.
var _ interface {
	Listen(ma.Multiaddr) (manet.Listener, error)
	Dial(ma.Multiaddr) (manet.Conn, error)
	DialContext(context.Context, ma.Multiaddr) (manet.Conn, error)
} = (*reuseport.Transport)(nil)

var _ error = reuseport.ErrWrongProto

// TestControl: Control is called for listeners and dials, and its error is the answer.
func TestControl(t *testing.T) {
	refused := errors.New("refused by Control")
	tr := reuseport.Transport{Control: func(string, string, syscall.RawConn) error { return refused }}
	_, err := tr.Listen(parse(t, "/ip4/127.0.0.1/tcp/0"))
	wantErr(t, err, refused)
	_, err = tr.Dial(peer(t, "127.0.0.1:0"))
	wantErr(t, err, refused)
}

// TestShutdown closes every listener, wakes Accept and refuses what comes later.
func TestShutdown(t *testing.T) {
	var tr reuseport.Transport
	one := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	two := listen(t, &tr, one.Multiaddr().String())
	alive := dial(t, &tr, peer(t, "127.0.0.1:0"))
	ended := make(chan error, 2)
	for _, l := range []manet.Listener{one, two} {
		go func() { _, err := l.Accept(); ended <- err }()
	}
	if err := tr.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	wantErr(t, <-ended, net.ErrClosed)
	wantErr(t, <-ended, net.ErrClosed)
	if n := tr.Stats().Listeners; n != 0 {
		t.Errorf("%d listeners after Shutdown", n)
	}
	_, err := tr.Listen(one.Multiaddr())
	wantErr(t, err, net.ErrClosed)
	_, err = tr.ListenPort(0)
	wantErr(t, err, net.ErrClosed)
	_, err = tr.Dial(alive.RemoteMultiaddr())
	wantErr(t, err, net.ErrClosed)
	if _, err := alive.Write([]byte("x")); err != nil {
		t.Error("Shutdown closed a connection: ", err)
	}
	if err := tr.Shutdown(context.Background()); err != nil {
		t.Error("second Shutdown: ", err)
	}
}

// TestShutdownPastClosed: listeners that were closed before are no error of Shutdown.
func TestShutdownPastClosed(t *testing.T) {
	var tr reuseport.Transport
	nl, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(localhost, 0)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tr.WrapListener(nl); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(listen(t, &tr, "/ip4/127.0.0.1/tcp/0").Close(), nl.Close()); err != nil {
		t.Fatal(err)
	}
	if err := tr.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestNoLeak dials and closes 10,000 times, and is refused 1,000 times. No descriptor and no
// goroutine stays.
func TestNoLeak(t *testing.T) {
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	raddr := peer(t, "127.0.0.1:0")
	refused := tcpMultiaddr(ownIP(), 1)
	dial(t, &tr, raddr).Close() // what the first dial starts for good
	settled(t)
	fds, goroutines := descriptors(), runtime.NumGoroutine()
	for i := range rounds(10_000, 1000) {
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
	awaitAtMost(t, "descriptors", fds, descriptors)
	awaitAtMost(t, "goroutines", goroutines, runtime.NumGoroutine)
}
