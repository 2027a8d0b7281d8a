package reuseport_test

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
)

// TestShapesBeside opens three listeners on one port, on addresses of every kind and in every
// order. One Transport gets all of them, and after that another Transport gets none.
func TestShapesBeside(t *testing.T) {
	shapes := []string{"/ip4/127.0.0.1/tcp/%d", "/ip4/127.0.0.2/tcp/%d", "/ip4/0.0.0.0/tcp/%d", "/ip6/::1/tcp/%d", "/ip6/::/tcp/%d", "dual"}
	open := func(tr *reuseport.Transport, shape string, port uint16) (manet.Listener, error) {
		if shape == "dual" {
			return tr.ListenPort(port)
		}
		return tr.Listen(ma.StringCast(fmt.Sprintf(shape, port)))
	}
	for _, a := range shapes {
		for _, b := range shapes {
			for _, c := range shapes {
				var ours, theirs reuseport.Transport
				port := ownPort()
				for _, shape := range []string{a, b, c} {
					if _, err := open(&ours, shape, port); err != nil {
						t.Errorf("%s, %s, %s: %v", a, b, c, err)
					}
				}
				for _, shape := range []string{a, b, c} {
					if _, err := open(&theirs, shape, port); !errors.Is(err, syscall.EADDRINUSE) {
						t.Errorf("another Transport beside %s, %s, %s on %s: %v", a, b, c, shape, err)
					}
				}
				ours.Shutdown(context.Background())
				theirs.Shutdown(context.Background())
			}
		}
	}
}

// TestListenPastDeadHandle: a wrapped listener that was closed behind the Transport's back is
// forgotten. Two more on its address are handles of one new socket.
func TestListenPastDeadHandle(t *testing.T) {
	var tr reuseport.Transport
	nl := openTCP(t)
	wrapped, err := tr.WrapListener(nl)
	if err != nil {
		t.Fatal(err)
	}
	if err := nl.Close(); err != nil {
		t.Fatal(err)
	}
	first := listen(t, &tr, wrapped.Multiaddr().String())
	second := listen(t, &tr, wrapped.Multiaddr().String())
	wantOneSocket(t, first, second)
	if n := tr.Stats().Listeners; n != 1 {
		t.Errorf("%d listeners", n)
	}
}

// TestDeadSocket: a socket that shutdown(2) has ended is dead for all its handles, and no
// dial leaves from its port.
func TestDeadSocket(t *testing.T) {
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	listen(t, &tr, l.Multiaddr().String())
	shutSocket(t, l)
	_, err := l.Accept()
	wantErr(t, err, syscall.EINVAL)
	_, err = tr.DialContext(required(t), peer(t, "127.0.0.1:0"))
	wantErr(t, err, reuseport.ErrNoReuse)
	if n := tr.Stats().Listeners; n != 0 {
		t.Errorf("%d listeners", n)
	}
}

// TestIPv6BesideDual: a listener for IPv6 alone beside a dual-stack one on the same port is a
// handle of that socket. As a socket of its own it would get no connection.
func TestIPv6BesideDual(t *testing.T) {
	var tr reuseport.Transport
	dual := listenPort(t, &tr)
	l := listen(t, &tr, fmt.Sprintf("/ip6/::/tcp/%d", portOf(dual.Addr())))
	wantOneSocket(t, dual, l)
}

// wantOneSocket checks that two listeners are handles of one socket: after the first is
// closed the second accepts a connection that was there before.
func wantOneSocket(t *testing.T, first, second manet.Listener) {
	t.Helper()
	dialPlain(t, first.Addr().String())
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	accept(t, second)
}
