//go:build !plan9

package reuseport_test

import (
	"net"
	"testing"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
)

// TestListenerConformance: Close, Accept and the addresses do what they do in package net.
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

// TestAcceptConcurrently: several callers of Accept share the connections, and each gets its
// own.
func TestAcceptConcurrently(t *testing.T) {
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	const n = 100
	got := make(chan string, n)
	for range 4 {
		go acceptEach(l.Accept, func(c manet.Conn) {
			got <- c.RemoteAddr().String()
			go discard(c)
		})
	}
	want := make(map[string]bool)
	for range n {
		c := dialPlain(t, l.Addr().String())
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
