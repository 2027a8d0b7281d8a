//go:build !plan9

package reuseport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
)

// TestListenerConformance pins what every listener of package net does.
func TestListenerConformance(t *testing.T) {
	for _, addr := range []string{"/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0", "/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0", "/dns4/localhost/tcp/0"} {
		t.Run(addr, func(t *testing.T) {
			var tr reuseport.Transport
			l := listen(t, &tr, addr)
			before, maddr := l.Addr().String(), l.Multiaddr()
			ended := make(chan error, 3)
			for range 3 {
				go func() { _, err := l.Accept(); ended <- err }()
			}
			time.Sleep(10 * time.Millisecond) // so that most of them wait
			if err := l.Close(); err != nil {
				t.Error("Close: ", err)
			}
			for range 3 {
				wantErr(t, <-ended, net.ErrClosed)
			}
			wantErr(t, l.Close(), net.ErrClosed)
			if l.Addr().String() != before || !l.Multiaddr().Equal(maddr) {
				t.Errorf("after Close %v %v, before %v %v", l.Addr(), l.Multiaddr(), before, maddr)
			}
			if n := tr.Stats().Listeners; n != 0 {
				t.Errorf("%d listeners after Close", n)
			}
		})
	}
}

// TestAcceptConcurrently has several callers of Accept share the connections.
func TestAcceptConcurrently(t *testing.T) {
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	const n = 100
	got := make(chan string, n)
	for range 4 {
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				got <- c.RemoteAddr().String()
				defer c.Close()
			}
		}()
	}
	want := make(map[string]bool)
	for range n {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		want[c.LocalAddr().String()] = true
	}
	for range n {
		addr := <-got
		if !want[addr] {
			t.Fatalf("accepted %s, which nobody dialed from, or twice", addr)
		}
		delete(want, addr)
	}
	if tr.Stats().Accepted != n {
		t.Errorf("Stats().Accepted = %d, want %d", tr.Stats().Accepted, n)
	}
}

// TestListenPort serves both families on one socket and shows IPv4 peers as IPv4.
func TestListenPort(t *testing.T) {
	var tr reuseport.Transport
	l, err := tr.ListenPort(0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := portOf(l.Addr())
	for _, row := range []struct{ ip, remote string }{{"127.0.0.1", "/ip4/127.0.0.1/tcp/"}, {"::1", "/ip6/::1/tcp/"}} {
		c, err := net.Dial("tcp", net.JoinHostPort(row.ip, strconv.Itoa(port)))
		if err != nil {
			skip(t, "no dual-stack: %v", err)
		}
		in := accept(t, l)
		want := row.remote + strconv.Itoa(portOf(c.LocalAddr()))
		if got := in.RemoteMultiaddr().String(); got != want {
			t.Errorf("peer shows as %s, want %s", got, want)
		}
		c.Close()
	}
}

// TestDualStackDialsBothFamilies dials IPv4 and IPv6 from one [::] socket.
func TestDualStackDialsBothFamilies(t *testing.T) {
	var tr reuseport.Transport
	l, err := tr.ListenPort(0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		c := dial(t, &tr, peer(t, address))
		if !c.Reused() || portOf(c.LocalAddr()) != portOf(l.Addr()) {
			t.Errorf("to %s from %v, reused %t, listening on %v", address, c.LocalAddr(), c.Reused(), l.Addr())
		}
	}
}

// TestExclusive makes sure that a port in use is an error, however the other one
// listens, before us or after.
func TestExclusive(t *testing.T) {
	ip := ownIP()
	lc := net.ListenConfig{Control: legacyControl}
	others := map[string]func(string) (io.Closer, error){
		"net.Listen":    func(a string) (io.Closer, error) { return net.Listen("tcp", a) },
		"SO_REUSEPORT":  func(a string) (io.Closer, error) { return lc.Listen(context.Background(), "tcp", a) },
		"a Transport":   func(a string) (io.Closer, error) { return listenOn(new(reuseport.Transport), a) },
		"a shared port": func(a string) (io.Closer, error) { return listenOn(&reuseport.Transport{Shared: true}, a) },
	}
	for name, other := range others {
		t.Run(name+" first", func(t *testing.T) {
			port := ownPort()
			first, err := other(fmt.Sprintf("%v:%d", ip, port))
			if err != nil {
				t.Fatal(err)
			}
			defer first.Close()
			l, err := new(reuseport.Transport).Listen(tcpMultiaddr(ip, port))
			wantErr(t, err, syscall.EADDRINUSE)
			if l != nil {
				l.Close()
			}
		})
	}
	for _, name := range []string{"net.Listen", "a Transport"} {
		t.Run(name+" second", func(t *testing.T) {
			port := ownPort()
			l, err := new(reuseport.Transport).Listen(tcpMultiaddr(ip, port))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			_, err = others[name](fmt.Sprintf("%v:%d", ip, port))
			wantErr(t, err, syscall.EADDRINUSE)
		})
	}
}

func listenOn(tr *reuseport.Transport, address string) (io.Closer, error) {
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, err
	}
	m, err := manet.FromNetAddr(a)
	if err != nil {
		return nil, err
	}
	return tr.Listen(m)
}

// TestTwoStartersOneWins races two processes for one address.
func TestTwoStartersOneWins(t *testing.T) {
	a, b := startChild(t, "listen"), startChild(t, "listen")
	rounds := 1000
	if testing.Short() {
		rounds = 100
	}
	for i := range rounds {
		addr := tcpMultiaddr(ownIP(), uint16(20000+i)).String()
		a.send(t, addr)
		b.send(t, addr)
		got := [2]string{a.receive(t), b.receive(t)}
		if got != [2]string{"listening", "in use"} && got != [2]string{"in use", "listening"} {
			t.Fatalf("round %d on %s: %q", i, addr, got)
		}
	}
}

// TestWildcardBesideSpecific lets one Transport listen on a specific address and
// on the wildcard of one port, in both orders, and both serve.
func TestWildcardBesideSpecific(t *testing.T) {
	linuxOnly(t)
	specific, wild := ownIP(), "/ip4/0.0.0.0/tcp/%d"
	for i, order := range [][2]string{{"specific", "wildcard"}, {"wildcard", "specific"}} {
		port := ownPort() + 5000*uint16(i)%5000
		var tr reuseport.Transport
		ls := make(map[string]manet.Listener)
		for _, which := range order {
			addr := tcpMultiaddr(specific, port).String()
			if which == "wildcard" {
				addr = fmt.Sprintf(wild, port)
			}
			ls[which] = listen(t, &tr, addr)
		}
		for which, ip := range map[string]string{"specific": specific.String(), "wildcard": "127.0.0.1"} {
			c, err := net.Dial("tcp", net.JoinHostPort(ip, strconv.Itoa(int(port))))
			if err != nil {
				t.Fatal(err)
			}
			in := accept(t, ls[which])
			if in.RemoteAddr().String() != c.LocalAddr().String() {
				t.Errorf("order %v: the %s listener got %v", order, which, in.RemoteAddr())
			}
			c.Close()
		}
	}
}

// TestRestart listens again at once while connections of the first run live on,
// accepted and dialed ones.
func TestRestart(t *testing.T) {
	var first, second reuseport.Transport
	l := listen(t, &first, tcpMultiaddr(ownIP(), ownPort()).String())
	addr := l.Multiaddr()
	out, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in := accept(t, l)
	dialed := dial(t, &first, peer(t, "127.0.0.1:0"))
	if !dialed.Reused() {
		t.Fatal("not reused: ", dialed.Cause())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := second.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for _, c := range []net.Conn{in, dialed} {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Error("old connection: ", err)
		}
	}
}

// TestShared spreads connections over processes that ask for one port.
func TestShared(t *testing.T) {
	linuxOnly(t)
	const processes, conns = 3, 400
	ip, port := ownIP(), ownPort()
	var children []*child
	for range processes {
		c := startChild(t, "listen", "shared")
		if got := c.ask(t, tcpMultiaddr(ip, port).String()); got != "listening" {
			t.Fatal(got)
		}
		children = append(children, c)
	}
	for range conns {
		c, err := net.Dial("tcp", fmt.Sprintf("%v:%d", ip, port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	total, deadline := 0, time.Now().Add(5*time.Second)
	for _, c := range children {
		n, err := strconv.Atoi(c.ask(t, "count"))
		if err != nil || n < conns/processes/4 || time.Now().After(deadline) {
			t.Errorf("a process got %d of %d connections (%v)", n, conns, err)
		}
		total += n
	}
	t.Logf("%d of %d connections counted", total, conns)
}

// TestHandlesShareOneSocket closes one of two handles while connections wait: the
// other gets all, and the last close frees the port.
func TestHandlesShareOneSocket(t *testing.T) {
	var tr reuseport.Transport
	one := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	two, err := tr.Listen(one.Multiaddr())
	if err != nil {
		t.Fatal(err)
	}
	const n = 400
	for range n {
		c, err := net.Dial("tcp", one.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if got := tr.Stats().Listeners; got != 2 {
		t.Errorf("Stats().Listeners = %d, want 2", got)
	}
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = one.Accept()
	wantErr(t, err, net.ErrClosed)
	for i := range n {
		c, err := two.Accept()
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		c.Close()
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

// TestConcurrentListen opens many handles of one address at once.
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

// TestListenWhileClosing: an address of ours that is being closed is either still
// ours or free again, never in use.
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

// TestShutdown closes every listener, wakes Accept and refuses what comes later.
func TestShutdown(t *testing.T) {
	var tr reuseport.Transport
	one := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	two, err := tr.Listen(one.Multiaddr())
	if err != nil {
		t.Fatal(err)
	}
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
	_, err = tr.Listen(one.Multiaddr())
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

// TestListenWrongAddress names every bad address and panics on none.
func TestListenWrongAddress(t *testing.T) {
	var tr reuseport.Transport
	_, err := tr.Listen(nil)
	wantErr(t, err, reuseport.ErrWrongProto)
	for _, s := range wrongAddresses {
		_, err := tr.Listen(parse(t, s))
		wantErr(t, err, reuseport.ErrWrongProto)
	}
	_, err = tr.Listen(parse(t, "/ip4/198.51.100.1/tcp/1"))
	wantErr(t, err, syscall.EADDRNOTAVAIL)
	var op *net.OpError
	if !errors.As(err, &op) || op.Addr.String() != "198.51.100.1:1" {
		t.Errorf("%v does not name the address", err)
	}
}
