package libp2ptcp_test

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/transport"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/libp2ptcp"
)

// TestDialUpdates wants one update from a dial whose TCP connects, and none
// otherwise.
func TestDialUpdates(t *testing.T) {
	peerA, a := peerSetup{}.transport(t)
	_, b := peerSetup{}.transport(t)
	for name, tt := range map[string]struct {
		raddr ma.Multiaddr
		want  int
	}{
		"connected":       {listen(t, a, "/ip4/127.0.0.1/tcp/0"), 1},
		"handshake fails": {rawPeer(t, func(net.Conn) {}), 1},
		"refused":         {refusing(t), 0},
	} {
		updates := make(chan transport.DialUpdate, 2)
		if c, err := b.DialWithUpdates(t.Context(), tt.raddr, peerA, updates); err == nil {
			defer c.Close()
		}
		if len(updates) != tt.want {
			t.Errorf("%s: %d updates, want %d", name, len(updates), tt.want)
			continue
		}
		if tt.want == 1 {
			if u := <-updates; u.Kind != transport.UpdateKindHandshakeProgressed || !u.Addr.Equal(tt.raddr) {
				t.Errorf("%s: update %+v", name, u)
			}
		}
	}
	full := make(chan transport.DialUpdate)
	c, err := b.DialWithUpdates(t.Context(), listen(t, a, "/ip4/127.0.0.1/tcp/0"), peerA, full)
	check(t, err) // it did not wait for a reader of updates
	check(t, c.Close())
}

// TestDialBack does as AutoNAT does: go-libp2p makes a second instance of the
// transport, with the same options, that never listens.
func TestDialBack(t *testing.T) {
	var r reuseport.Transport
	peerA, a := peerSetup{}.transport(t)
	raddr := listen(t, a, "/ip4/127.0.0.1/tcp/0")
	_, host := peerSetup{}.transport(t, libp2ptcp.WithTransport(&r))
	_, dialBack := peerSetup{}.transport(t, libp2ptcp.WithTransport(&r))
	listen(t, host, "/ip4/127.0.0.1/tcp/0")
	if c := tcpOf(t, t.Context(), dialBack, raddr, peerA); c.Reused() || c.Cause() != reuseport.ByPolicy {
		t.Errorf("the dial-back is reused: %t, cause %v", c.Reused(), c.Cause())
	}
	if c := tcpOf(t, t.Context(), host, raddr, peerA); !c.Reused() {
		t.Errorf("the host's own dial is not reused: %v", c.Cause())
	}
}

// TestPunch lets two transports punch each other in the roles that their contexts
// give them, whichever SYN is first. On loopback one SYN often arrives before the
// other side has begun to punch. The listener has the connection then, and so does
// its host, even if its own punch ends with ErrPeerFirst.
func TestPunch(t *testing.T) {
	var outcomes struct{ both, one int }
	for range 8 {
		peerA, a := peerSetup{}.transport(t)
		peerB, b := peerSetup{}.transport(t)
		addrA, addrB := listen(t, a, "/ip4/127.0.0.1/tcp/0"), listen(t, b, "/ip4/127.0.0.1/tcp/0")
		var ab, ba transport.CapableConn
		var errA, errB error
		var wg sync.WaitGroup
		wg.Go(func() { ab, errA = a.Dial(network.WithSimultaneousConnect(t.Context(), true, ""), addrB, peerB) })
		wg.Go(func() { ba, errB = b.Dial(network.WithSimultaneousConnect(t.Context(), false, ""), addrA, peerA) })
		wg.Wait()
		switch {
		case errA == nil && errB == nil:
			outcomes.both++
			wantPunched(t, ab, ba, addrA, addrB)
			check(t, errors.Join(ab.Close(), ba.Close()))
		case errA == nil && errors.Is(errB, libp2ptcp.ErrPeerFirst):
			outcomes.one++
			check(t, ab.Close())
		case errB == nil && errors.Is(errA, libp2ptcp.ErrPeerFirst):
			outcomes.one++
			check(t, ba.Close())
		default:
			t.Errorf("a: %v; b: %v", errA, errB)
		}
	}
	t.Logf("%+v", outcomes)
}

// wantPunched demands that ab and ba are one connection between the listening ports.
func wantPunched(t testing.TB, ab, ba transport.CapableConn, addrA, addrB ma.Multiaddr) {
	t.Helper()
	if !ab.LocalMultiaddr().Equal(addrA) || !ab.RemoteMultiaddr().Equal(ba.LocalMultiaddr()) || !ba.LocalMultiaddr().Equal(addrB) {
		t.Errorf("%v and %v are not one connection between the listening ports", ab, ba)
	}
	talk(t, ab, ba)
}

// TestPunchSparesOthers asks a host to punch at an address from which another peer is
// connected. That peer's connection must stay.
func TestPunchSparesOthers(t *testing.T) {
	peerA, a := peerSetup{}.transport(t)
	addrA := listen(t, a, "/ip4/127.0.0.1/tcp/0")
	_, b := peerSetup{}.transport(t)
	addrB := listen(t, b, "/ip4/127.0.0.1/tcp/0")
	c, err := b.Dial(t.Context(), addrA, peerA)
	check(t, err)
	defer c.Close()
	other, _ := peerSetup{}.upgrader(t)
	_, err = a.Dial(punching(t.Context()), addrB, other)
	wantErr(t, err, reuseport.ErrTupleInUse)
	s, err := c.OpenStream(t.Context())
	check(t, err)
	_, err = s.Write([]byte("still there"))
	check(t, errors.Join(err, s.CloseWrite()))
	got, err := io.ReadAll(s)
	if err != nil || string(got) != "still there" {
		t.Errorf("%q came back, %v", got, err)
	}
}

// talk opens a stream from a to b and waits until it arrives.
func talk(t testing.TB, a, b transport.CapableConn) {
	t.Helper()
	s, err := a.OpenStream(t.Context())
	check(t, err)
	_, err = s.Write([]byte("hello"))
	check(t, err)
	_, err = b.AcceptStream()
	check(t, err)
}
