//go:build !plan9

package reuseport_test

import (
	"context"
	"errors"
	"net"
	"testing"

	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/net/nettest"

	"github.com/reusetransport/reuseport"
)

// TestConnIsAConn runs x/net's suite for a net.Conn on connections that reuse a port.
func TestConnIsAConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		var us, them reuseport.Transport
		if _, err = us.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0")); err != nil {
			return
		}
		l, err := them.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
		if err != nil {
			return
		}
		out, err := us.Dial(l.Multiaddr())
		if err != nil {
			return
		}
		if !out.(*reuseport.Conn).Reused() {
			return nil, nil, nil, errors.New("not reused")
		}
		in, err := l.Accept()
		stop = func() {
			out.Close()
			in.Close()
			us.Shutdown(context.Background())
			them.Shutdown(context.Background())
		}
		return out, in, stop, err
	})
}

// TestConnDescribesItself: both ends of a connection tell their addresses and how it came about.
func TestConnDescribesItself(t *testing.T) {
	p := newClosePair(t, 0)
	for range 2 { // the second time from what is kept
		if !p.dialed.LocalMultiaddr().Equal(p.accepted.RemoteMultiaddr()) || !p.dialed.RemoteMultiaddr().Equal(p.target) {
			t.Errorf("%v -> %v, listening on %v", p.dialed.LocalMultiaddr(), p.dialed.RemoteMultiaddr(), p.target)
		}
	}
	if from, to := p.dialed.Direction().String(), p.accepted.Direction().String(); from != "dialed" || to != "accepted" {
		t.Errorf("directions %q and %q", from, to)
	}
	if p.accepted.Reused() || p.accepted.Cause() != reuseport.NoCause {
		t.Errorf("accepted, and reused %t: %v", p.accepted.Reused(), p.accepted.Cause())
	}
}
