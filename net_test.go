//go:build !plan9

package reuseport_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"syscall"
	"testing"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
)

// The shapes that other packages expect: golang.org/x/net/proxy, tableflip, lib/pq, go-redis, gRPC.
var (
	_ interface {
		Dial(network, address string) (net.Conn, error)
		DialContext(ctx context.Context, network, address string) (net.Conn, error)
		Listen(network, address string) (net.Listener, error)
	} = reuseport.Net{}
	_ interface {
		net.Listener
		syscall.Conn
		File() (*os.File, error)
		SetDeadline(time.Time) error
	} = (*reuseport.NetListener)(nil)
	_ func(context.Context, string, string) (net.Conn, error) = new(reuseport.Transport).DialNetContext
)

// TestNetDialTimeout: a dial ends at its timeout, zero is none, and a negative one has
// ended, as in package net.
func TestNetDialTimeout(t *testing.T) {
	linuxOnly(t)
	var tr reuseport.Transport
	silent, err := manet.ToNetAddr(silentListener(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = tr.Net().DialTimeout("tcp", silent.String(), 50*time.Millisecond)
	wantErr(t, err, context.DeadlineExceeded)
	_, err = tr.Net().DialTimeout("tcp", silent.String(), -1)
	wantErr(t, err, context.DeadlineExceeded)
	for _, timeout := range []time.Duration{0, patience} {
		c, err := tr.Net().DialTimeout("tcp", dialedListener(t).Addr().String(), timeout)
		if err != nil {
			t.Fatal(err)
		}
		abort(t, c.(*reuseport.Conn))
	}
}

// TestNetListen: Listen listens where package net's does, and dials leave from there.
func TestNetListen(t *testing.T) {
	resolveBy(t, "127.0.0.1")
	for _, row := range [][2]string{
		{"tcp", ":0"}, {"tcp", "0.0.0.0:0"}, {"tcp", "[::]:0"}, {"tcp", "127.0.0.1:0"}, {"tcp", "[::1]:0"}, {"tcp", "peer.test:0"},
		{"tcp4", ":0"}, {"tcp4", "0.0.0.0:0"}, {"tcp4", "127.0.0.1:0"}, {"tcp6", ":0"}, {"tcp6", "[::]:0"}, {"tcp6", "[::1]:0"},
		{"tcp4", "[::1]:0"}, {"tcp6", "127.0.0.1:0"}, {"udp", ":0"}, {"tcp", "127.0.0.1"}, {"tcp", "unknown.test:0"},
	} {
		var tr reuseport.Transport
		got, err := tr.Net().Listen(row[0], row[1])
		want, errNet := net.Listen(row[0], row[1])
		if (err == nil) != (errNet == nil) {
			t.Errorf("%v: %v; package net %v", row, err, errNet)
		}
		if err != nil {
			if _, ok := err.(*net.OpError); !ok || got != nil {
				t.Errorf("%v: %v, %T", row, got, err)
			}
			continue
		}
		defer got.Close()
		defer want.Close()
		if a, b := got.Addr().(*net.TCPAddr).IP, want.Addr().(*net.TCPAddr).IP; !a.Equal(b) {
			t.Errorf("%v: on %v, package net on %v", row, a, b)
		}
		for _, family := range []string{"127.0.0.1", "::1"} {
			c, err := net.Dial("tcp", net.JoinHostPort(family, portText(got)))
			cNet, errNet := net.Dial("tcp", net.JoinHostPort(family, portText(want)))
			if err != nil && errNet == nil { // where package net is not there, somebody else may be
				t.Errorf("%v, dialed by %s: %v; package net %v", row, family, err, errNet)
			}
			for _, c := range []net.Conn{c, cNet} {
				if c != nil {
					c.Close()
				}
			}
		}
	}
}

func portText(l net.Listener) string {
	_, port, _ := net.SplitHostPort(l.Addr().String()) // of a listener's address
	return port
}

// TestNetListenerIsTheListener: the view of a listener is the same handle, and what it accepts is a
// *Conn.
func TestNetListenerIsTheListener(t *testing.T) {
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0").(*reuseport.Listener)
	view := l.NetListener()
	dialPlain(t, view.Addr().String())
	c, err := view.Accept()
	if _, ok := c.(*reuseport.Conn); !ok || err != nil {
		t.Errorf("accepted %T, %v", c, err)
	}
	c.Close()
	if err := view.Close(); err != nil {
		t.Error(err)
	}
	if c, err := view.Accept(); c != nil || !errors.Is(err, net.ErrClosed) {
		t.Errorf("accepted %v, %v", c, err)
	}
	_, err = l.Accept()
	wantErr(t, err, net.ErrClosed)
}

// TestListenerDeadline: a deadline ends Accept, and can be taken off. A punch on the port, which
// looks into the accept queue, leaves it alone.
func TestListenerDeadline(t *testing.T) {
	linuxOnly(t)
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0").(*reuseport.Listener)
	if err := l.SetDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	holder := dial(t, &tr, peer(t, "127.0.0.1:0"))
	_, err := tr.Punch(shortly(t, 50*time.Millisecond), holder.RemoteMultiaddr()) // the taken 4-tuple makes it look
	wantErr(t, err, context.DeadlineExceeded)
	start := time.Now()
	_, err = l.Accept()
	wantErr(t, err, os.ErrDeadlineExceeded)
	if d := time.Since(start); d > patience/2 {
		t.Errorf("Accept took %v", d)
	}
	if err := l.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	dialPlain(t, l.Addr().String())
	accept(t, l)
}

// TestNetServesAndDials: net/http serves a NetListener and dials by Net, and ConnOf finds the *Conn
// below TLS.
func TestNetServesAndDials(t *testing.T) {
	linuxOnly(t)
	var us, them reuseport.Transport
	l, err := them.Net().Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	found := make(chan bool, 1)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RemoteAddr) }))
	srv.Config.ConnState = func(c net.Conn, s http.ConnState) {
		if _, isTLS := c.(*tls.Conn); s == http.StateNew {
			_, ok := reuseport.ConnOf(c)
			found <- ok && isTLS
		}
	}
	srv.Listener.Close()
	srv.Listener = l
	srv.StartTLS()
	defer srv.Close()
	ours, err := us.Net().Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	client := srv.Client()
	client.Transport.(*http.Transport).DialContext = us.Net().DialContext
	res, err := client.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if seen, err := io.ReadAll(res.Body); string(seen) != ours.Addr().String() || err != nil {
		t.Errorf("seen as %s, %v; listening on %v", seen, err, ours.Addr())
	}
	if !<-found {
		t.Error("ConnOf found nothing below the server's tls.Conn")
	}
	if _, ok := reuseport.ConnOf(dialPlain(t, ours.Addr().String())); ok {
		t.Error("ConnOf found something in a plain connection")
	}
}
