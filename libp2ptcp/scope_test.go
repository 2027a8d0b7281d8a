package libp2ptcp_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/libp2ptcp"
)

// manager makes a real resource manager.
func manager(t testing.TB, limits rcmgr.PartialLimitConfig) network.ResourceManager {
	t.Helper()
	m, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits.Build(rcmgr.InfiniteLimits)))
	check(t, err)
	t.Cleanup(func() { check(t, m.Close()) })
	return m
}

// inUse returns the resources in use.
func inUse(t testing.TB, m network.ResourceManager) (stat network.ScopeStat) {
	t.Helper()
	check(t, m.ViewSystem(func(s network.ResourceScope) error {
		stat = s.Stat()
		return nil
	}))
	return stat
}

// gater refuses at the given points.
type gater struct{ accept, secured bool }

var _ connmgr.ConnectionGater = gater{}

func (gater) InterceptPeerDial(peer.ID) bool                { return true }
func (gater) InterceptAddrDial(peer.ID, ma.Multiaddr) bool  { return true }
func (g gater) InterceptAccept(network.ConnMultiaddrs) bool { return !g.accept }
func (g gater) InterceptSecured(network.Direction, peer.ID, network.ConnMultiaddrs) bool {
	return !g.secured
}
func (gater) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

// noConns allows no outgoing connection, noPeers none to any peer.
var (
	noConns = rcmgr.PartialLimitConfig{System: rcmgr.ResourceLimits{ConnsOutbound: rcmgr.BlockAllLimit}}
	noPeers = rcmgr.PartialLimitConfig{PeerDefault: rcmgr.ResourceLimits{ConnsOutbound: rcmgr.BlockAllLimit}}
)

// outcome is one way in which a dial can end.
type outcome struct {
	limits rcmgr.PartialLimitConfig
	gater  gater
	raddr  func(t testing.TB) ma.Multiaddr       // nil = an existing peer
	ctx    func(context.Context) context.Context // nil = as it is
	want   error                                 // nil = any error; errNone = none
	text   string                                // part of the error's text, if it has no sentinel
}

var errNone = errors.New("no error")

func cancelled(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}

func outcomes() map[string]outcome {
	hangUp := func(t testing.TB) ma.Multiaddr { return rawPeer(t, func(net.Conn) {}) }
	return map[string]outcome{
		"connected":         {want: errNone},
		"refused":           {raddr: refusing, want: syscall.ECONNREFUSED},
		"cancelled":         {ctx: cancelled, want: context.Canceled},
		"no connections":    {limits: noConns, want: network.ErrResourceLimitExceeded},
		"no peers":          {limits: noPeers, want: network.ErrResourceLimitExceeded},
		"handshake fails":   {raddr: hangUp, text: "failed to negotiate security protocol"},
		"gater refuses":     {gater: gater{secured: true}, text: "gater rejected connection"},
		"nothing to punch":  {ctx: punching, want: reuseport.ErrNoReuse},
		"not a TCP address": {raddr: func(testing.TB) ma.Multiaddr { return ma.StringCast("/ip4/127.0.0.1/udp/1") }, want: reuseport.ErrWrongProto},
	}
}

// TestScopesOfDials demands that a dial returns everything to the resource manager
// and closes its socket, however it ends.
func TestScopesOfDials(t *testing.T) {
	peerA, a := peerSetup{}.transport(t)
	addr := listen(t, a, "/ip4/127.0.0.1/tcp/0")
	for name, tt := range outcomes() {
		t.Run(name, func(t *testing.T) {
			m, reg := manager(t, tt.limits), prometheus.NewRegistry()
			_, b := peerSetup{rcmgr: m, gater: tt.gater}.transport(t, libp2ptcp.WithMetrics(reg))
			raddr, ctx := addr, t.Context()
			if tt.raddr != nil {
				raddr = tt.raddr(t)
			}
			if tt.ctx != nil {
				ctx = tt.ctx(ctx)
			}
			c, err := b.Dial(ctx, raddr, peerA)
			tt.judge(t, c, err)
			if s := inUse(t, m); s != (network.ScopeStat{}) {
				t.Errorf("not given back: %+v", s)
			}
			if open := metric(t, reg, "reuseport_connections_open", "outbound"); open != 0 {
				t.Errorf("%v connections left open", open)
			}
		})
	}
}

// judge checks how a dial ended and closes its connection.
func (o outcome) judge(t *testing.T, c transport.CapableConn, err error) {
	t.Helper()
	if o.want == errNone {
		check(t, err)
		check(t, c.Close())
		return
	}
	if err == nil {
		t.Fatal("no error")
	}
	if o.want != nil {
		wantErr(t, err, o.want)
	}
	if !strings.Contains(err.Error(), o.text) {
		t.Errorf("error %q does not say %q", err, o.text)
	}
}

// TestScopesOfAccepted demands the same of a listener.
func TestScopesOfAccepted(t *testing.T) {
	denied := rcmgr.PartialLimitConfig{System: rcmgr.ResourceLimits{ConnsInbound: rcmgr.BlockAllLimit}}
	for name, tt := range map[string]struct {
		limits rcmgr.PartialLimitConfig
		gater  gater
		gated  bool // the connection is never handed to the upgrader
	}{
		"connected":             {},
		"gater refuses to take": {gater: gater{accept: true}, gated: true},
		"gater refuses peer":    {gater: gater{secured: true}},
		"no connections":        {limits: denied, gated: true},
	} {
		t.Run(name, func(t *testing.T) {
			m, reg := manager(t, tt.limits), prometheus.NewRegistry()
			peerA, a := peerSetup{rcmgr: m, gater: tt.gater}.transport(t, libp2ptcp.WithMetrics(reg))
			addr := listen(t, a, "/ip4/127.0.0.1/tcp/0")
			_, b := peerSetup{}.transport(t)
			if c, err := b.Dial(t.Context(), addr, peerA); err == nil {
				check(t, c.Close())
			} else if name == "connected" {
				t.Fatal(err)
			}
			eventually(t, "accepted", func() bool { return metric(t, reg, "reuseport_accepted_total", "") == 1 })
			eventually(t, "all given back", func() bool { return inUse(t, m) == network.ScopeStat{} })
			eventually(t, "closed", func() bool { return metric(t, reg, "reuseport_connections_open", "inbound") == 0 })
			if upgraded := metric(t, reg, "reuseport_connections_total", "inbound") == 1; upgraded == tt.gated {
				t.Errorf("handed to the upgrader: %t", upgraded)
			}
		})
	}
}

// TestScopesOfShortConnections hangs up right after the handshake, often before the
// listener has handed the connection out.
func TestScopesOfShortConnections(t *testing.T) {
	m := manager(t, rcmgr.PartialLimitConfig{})
	peerA, a := peerSetup{rcmgr: m}.transport(t)
	addr := listen(t, a, "/ip4/127.0.0.1/tcp/0")
	_, b := peerSetup{}.transport(t)
	for range 30 {
		c, err := b.Dial(t.Context(), addr, peerA)
		check(t, err)
		check(t, c.Close())
	}
	eventually(t, "all given back", func() bool { return inUse(t, m) == network.ScopeStat{} })
}

// TestScopesOfUnaccepted closes a listener with connections that were never accepted,
// one of them before its handshake began.
func TestScopesOfUnaccepted(t *testing.T) {
	m := manager(t, rcmgr.PartialLimitConfig{})
	peerA, a := peerSetup{rcmgr: m}.transport(t)
	l, err := a.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
	check(t, err)
	_, b := peerSetup{}.transport(t)
	silent, err := net.Dial("tcp4", l.Addr().String())
	check(t, err)
	defer silent.Close()
	for range 3 {
		c, err := b.Dial(t.Context(), l.Multiaddr(), peerA)
		check(t, err)
		defer c.Close()
	}
	eventually(t, "4 connections", func() bool { return inUse(t, m).NumConnsInbound == 4 })
	check(t, l.Close())
	eventually(t, "all given back", func() bool { return inUse(t, m) == network.ScopeStat{} })
	_, err = l.Accept()
	wantErr(t, err, transport.ErrListenerClosed)
}
