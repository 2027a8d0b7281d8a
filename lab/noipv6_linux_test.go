package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/lab"
)

// TestListenPortWithoutIPv6 wants ListenPort to serve IPv4 where the kernel has no
// IPv6, and a second call for the port to return a handle of the same socket.
func TestListenPortWithoutIPv6(t *testing.T) {
	t.Parallel()
	n := lab.Start(t, one("v4only"))
	got, err := lab.Call[string](t.Context(), n, "a", "listenTwice", uint16(4001))
	if want := "/ip4/0.0.0.0/tcp/4001, 2 listeners, served by the second"; err != nil || got != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

// v4only is a host whose kernel seems to have no IPv6.
func v4only(p *lab.Process) error {
	if err := deny(unix.AF_INET6, unix.EAFNOSUPPORT); err != nil {
		return err
	}
	lab.Handle(p, "listenTwice", listenTwice)
	return p.Serve()
}

// listenTwice opens two handles, connects, closes the first and accepts on the
// second.
func listenTwice(ctx context.Context, port uint16) (string, error) {
	var tr reuseport.Transport
	one, err := tr.ListenPort(port)
	if err != nil {
		return "", err
	}
	two, err := tr.ListenPort(port)
	if err != nil {
		return "", err
	}
	listeners := tr.Stats().Listeners
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := one.Close(); err != nil {
		return "", err
	}
	overdue := time.AfterFunc(5*time.Second, func() { two.Close() }) // ends Accept
	defer overdue.Stop()
	said := fmt.Sprintf("%v, %d listeners, served by the second", two.Multiaddr(), listeners)
	return said, errors.Join(serveOne(two), tr.Shutdown(ctx))
}

// serveOne accepts a waiting connection and checks that it works.
func serveOne(l manet.Listener) error {
	in, err := l.Accept()
	if err != nil {
		return err
	}
	_, err = in.Write([]byte("x"))
	return errors.Join(err, in.Close())
}
