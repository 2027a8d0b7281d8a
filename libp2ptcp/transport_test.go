package libp2ptcp_test

import (
	"net"
	"os"
	"os/exec"
	"testing"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/libp2ptcp"
)

func TestCanDial(t *testing.T) {
	_, tr := peerSetup{}.transport(t)
	for addr, want := range map[string]bool{
		"/ip4/192.0.2.1/tcp/1":              true,
		"/ip6/2001:db8::1/tcp/1":            true,
		"/ip6zone/eth0/ip6/fe80::1/tcp/1":   true,
		"/dns4/example.org/tcp/1":           false,
		"/ip4/192.0.2.1":                    false,
		"/ip4/192.0.2.1/udp/1":              false,
		"/ip4/192.0.2.1/tcp/1/ws":           false,
		"/ip4/192.0.2.1/udp/1/quic-v1":      false,
		"/unix/a":                           false,
		"/ip4/192.0.2.1/tcp/1/p2p-circuit/": false,
	} {
		if tr.CanDial(ma.StringCast(addr)) != want {
			t.Errorf("CanDial(%s) is %t", addr, !want)
		}
	}
}

// TestOffSwitch runs itself again with the off switch of go-libp2p's transport.
func TestOffSwitch(t *testing.T) {
	const env = "LIBP2P_TCP_REUSEPORT"
	if os.Getenv(env) != "" {
		peerA, a := peerSetup{}.transport(t)
		raddr := listen(t, a, "/ip4/127.0.0.1/tcp/0")
		_, b := peerSetup{}.transport(t)
		listen(t, b, "/ip4/127.0.0.1/tcp/0")
		ctx := reuseport.WithPortUse(t.Context(), reuseport.RequireReuse)
		if c := tcpOf(t, ctx, b, raddr, peerA); c.Reused() || c.Cause() != reuseport.ByPolicy {
			t.Errorf("switched off, but reused: %t, cause %v", c.Reused(), c.Cause())
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestOffSwitch$", "-test.v")
	cmd.Env = append(os.Environ(), env+"=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestClose closes a transport. Its own reuseport.Transport is shut down; one of the
// caller's stays open.
func TestClose(t *testing.T) {
	id, tr := peerSetup{}.transport(t)
	check(t, tr.Close())
	_, err := tr.Dial(t.Context(), refusing(t), id)
	wantErr(t, err, net.ErrClosed)
	_, err = tr.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
	wantErr(t, err, net.ErrClosed)

	var r reuseport.Transport
	_, tr = peerSetup{}.transport(t, libp2ptcp.WithTransport(&r))
	check(t, tr.Close())
	l, err := r.ListenPort(0)
	check(t, err)
	check(t, l.Close())
}
