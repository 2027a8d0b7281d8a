//go:build !plan9

package reuseport_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/reusetransport/reuseport"
)

// TestHandlesShareOneSocket closes one of two handles while connections wait: the other
// gets all, and the last close frees the port.
func TestHandlesShareOneSocket(t *testing.T) {
	var tr reuseport.Transport
	one := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	two := listen(t, &tr, one.Multiaddr().String())
	const n = 400
	for range n {
		dialPlain(t, one.Addr().String())
	}
	if got := tr.Stats().Listeners; got != 2 {
		t.Errorf("Stats().Listeners = %d, want 2", got)
	}
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := one.Accept()
	wantErr(t, err, net.ErrClosed)
	for i := range n {
		if _, err := accept(t, two).Write([]byte("x")); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	if !dial(t, &tr, peer(t, "127.0.0.1:0")).Reused() {
		t.Error("the second handle's port is not reused")
	}
	if err := two.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := net.Listen("tcp", one.Addr().String())
	if err != nil {
		t.Fatal("the port is not free: ", err)
	}
	again.Close()
}

// TestConcurrentListen opens many handles of one address at the same time.
func TestConcurrentListen(t *testing.T) {
	var tr reuseport.Transport
	addr := tcpMultiaddr(ownIP(), ownPort())
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			l, err := tr.Listen(addr)
			if err != nil {
				t.Error(err)
				return
			}
			l.Close()
		})
	}
	wg.Wait()
	if n := tr.Stats().Listeners; n != 0 {
		t.Errorf("%d listeners left", n)
	}
}

// TestListenWhileClosing: an address of ours that is being closed is either still ours or
// free again, never in use.
func TestListenWhileClosing(t *testing.T) {
	var tr reuseport.Transport
	port := ownPort()
	var wg sync.WaitGroup
	for _, ip := range []netip.Addr{ownIP(), ownIP(), netip.IPv4Unspecified()} {
		wg.Go(func() {
			for range 500 {
				l, err := tr.Listen(tcpMultiaddr(ip, port))
				if err != nil {
					t.Errorf("while another handle closes: %v", err)
					return
				}
				go l.Accept() // Close has to end it
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestListenersComeAndGo dials in parallel while listeners open and close: no dial fails.
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

// TestDeadHandle: of two handles of one socket one is closed behind the Transport's back. The
// other one goes on, and so do dials from the port.
func TestDeadHandle(t *testing.T) {
	var tr reuseport.Transport
	nl := openTCP(t)
	dead, err := tr.WrapListener(nl)
	if err != nil {
		t.Fatal(err)
	}
	alive, err := tr.Listen(dead.Multiaddr())
	if errors.Is(err, syscall.EADDRINUSE) {
		t.Skip("this system has no second handles: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	if err := nl.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = dead.Accept()
	wantErr(t, err, net.ErrClosed)
	if n := tr.Stats().Listeners; n != 1 {
		t.Errorf("%d listeners, want 1", n)
	}
	dialPlain(t, alive.Addr().String())
	accept(t, alive)
	if c := dial(t, &tr, peer(t, "127.0.0.1:0")); !c.Reused() {
		t.Errorf("not reused: %v", c.Cause())
	}
}

// TestWrappedBehindOurBack: once a wrapped listener is closed by itself, no dial leaves from its
// port and says that it reused one, and Stats does not count it.
func TestWrappedBehindOurBack(t *testing.T) {
	var log strings.Builder
	tr := reuseport.Transport{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	nl := openTCP(t)
	if _, err := tr.WrapListener(nl); err != nil {
		t.Fatal(err)
	}
	nl.Close()
	for range 2 {
		if c := dial(t, &tr, peer(t, "127.0.0.1:0")); c.Reused() || c.Cause() != reuseport.NoListener {
			t.Errorf("reused %t, %v", c.Reused(), c.Cause())
		}
	}
	if n := tr.Stats().Listeners; n != 0 {
		t.Errorf("%d listeners", n)
	}
	if n := strings.Count(log.String(), "listener died"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, &log)
	}
}

// TestWrapTwice: a listener is wrapped once. The second try changes nothing.
func TestWrapTwice(t *testing.T) {
	var tr reuseport.Transport
	nl := openTCP(t)
	l, err := tr.WrapListener(nl)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tr.WrapListener(nl)
	wantErr(t, err, syscall.EINVAL)
	dialPlain(t, l.Addr().String())
	accept(t, l)
	if c := dial(t, &tr, peer(t, "127.0.0.1:0")); reuseport.Available() && !c.Reused() {
		t.Error("not reused: ", c.Cause())
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if n := tr.Stats().Listeners; n != 0 {
		t.Errorf("%d listeners", n)
	}
	_, err = tr.WrapListener(nl)
	wantErr(t, err, net.ErrClosed)
}

// TestListenAgainByZone: a zone that means nothing does not hide the handle that there is.
func TestListenAgainByZone(t *testing.T) {
	linuxOnly(t)
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip6/::1/tcp/0")
	for _, zone := range []string{"lo", "1"} {
		again, err := tr.Listen(parse(t, fmt.Sprintf("/ip6zone/%s/ip6/::1/tcp/%d", zone, portOf(l.Addr()))))
		if err != nil {
			t.Errorf("zone %s: %v", zone, err)
			continue
		}
		again.Close()
	}
	if n := tr.Stats().Listeners; n != 1 {
		t.Errorf("%d listeners, want 1", n)
	}
}
