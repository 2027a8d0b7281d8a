package reuseport_test

import (
	"sync/atomic"
	"testing"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/reusetransport/reuseport"
)

// TestHeldPeer: a dial makes no socket for a 4-tuple that a connection of ours has, dialed or
// accepted, and tries again once it is free, however that came about.
func TestHeldPeer(t *testing.T) {
	for name, free := range map[string]func(t *testing.T, p *closePair){
		"aborted":        func(t *testing.T, p *closePair) { abort(t, p.dialed) },
		"closed past us": func(t *testing.T, p *closePair) { p.dialed.TCPConn.Close() },
		"reset by the peer": func(t *testing.T, p *closePair) {
			abort(t, p.accepted)
			p.dialed.Read(make([]byte, 1)) // fails, and the descriptor stays open
		},
		"aborted, and its descriptor is another connection's": func(t *testing.T, p *closePair) {
			abort(t, p.dialed)
			for range 8 {
				dialPlain(t, dialedListener(t).Addr().String())
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var sockets atomic.Int32
			p := &closePair{}
			p.dialer.Control, p.acceptor.Control = attempts(&sockets), attempts(&sockets)
			p.open(t)
			before := sockets.Load()
			wantHeld(t, &p.dialer, p.dialed.RemoteMultiaddr())
			wantHeld(t, &p.acceptor, p.accepted.RemoteMultiaddr()) // its end has the 4-tuple too
			if n := sockets.Load() - before; n != 2 {
				t.Errorf("%d sockets for two dials to held peers", n)
			}
			free(t, p)
			if p.connect(t); !p.dialed.Reused() {
				t.Error("free again, and not reused: ", p.dialed.Cause())
			}
		})
	}
}

// wantHeld dials a peer that tr has a connection with from its listening port.
func wantHeld(t *testing.T, tr *reuseport.Transport, to ma.Multiaddr) {
	t.Helper()
	c, err := tr.Dial(to)
	if err != nil {
		t.Fatal(err)
	}
	if conn := c.(*reuseport.Conn); conn.Reused() || conn.Cause() != reuseport.TupleInUse {
		t.Errorf("%v is held, and reused %t: %v", to, conn.Reused(), conn.Cause())
	}
	c.Close()
}

// TestHeldElsewhere: a connection to the peer from another address of the host does not keep a
// wildcard listener's port from being used.
func TestHeldElsewhere(t *testing.T) {
	var us, them reuseport.Transport
	ours, theirs := listen(t, &us, "/ip4/0.0.0.0/tcp/0"), listen(t, &them, "/ip4/127.0.0.1/tcp/0")
	c, err := them.Dial(tcpMultiaddr(ownIP(), uint16(portOf(ours.Addr()))))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := accept(t, ours)
	if c := dial(t, &us, theirs.Multiaddr()); !c.Reused() {
		t.Errorf("%v: a connection from %v is in the way", c.Cause(), in.LocalAddr())
	}
}
