package libp2ptcp

import (
	"net"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/transport"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
)

// keepAlivePeriod is how long a connection may be silent before TCP probes it, as
// in go-libp2p's TCP transport; the interval and number of probes are Go's.
const keepAlivePeriod = 30 * time.Second

// Listen listens on laddr, exclusively unless reuseport.Transport.Shared is set:
// a port that somebody listens on is EADDRINUSE. Connections are gated and
// accounted for by the resource manager before they are upgraded. See
// reuseport.Transport.Listen for addresses and errors.
func (t *Transport) Listen(laddr ma.Multiaddr) (transport.Listener, error) {
	l, err := t.reuse.Listen(laddr)
	if err != nil {
		return nil, err
	}
	t.listened.Store(true)
	gated := &gatedListener{GatedMaListener: t.upgrader.GateMaListener(l), t: t}
	return &listener{Listener: t.upgrader.UpgradeGatedMaListener(t, gated), t: t}, nil
}

// gatedListener settles what the gate has let in.
type gatedListener struct {
	transport.GatedMaListener
	t *Transport
}

// Accept waits for the next connection that the gater and the resource manager let
// in. The caller owns the connection and its scope.
func (l *gatedListener) Accept() (manet.Conn, network.ConnManagementScope, error) {
	c, scope, err := l.GatedMaListener.Accept()
	if err != nil {
		return nil, nil, err
	}
	s := l.t.settle(c, network.DirInbound, scope)
	s.closed = append(s.closed, func() { l.t.arrivals.remove(s) })
	l.t.arrivals.add(s)
	return s, scope, nil
}

// listener is what the host accepts from.
type listener struct {
	transport.Listener
	t *Transport
}

// Accept waits for the next upgraded connection. The caller owns it.
func (l *listener) Accept() (transport.CapableConn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	a := l.t.arrivals.from(c.RemoteMultiaddr())
	if a == nil {
		return c, nil // closed meanwhile, as its first use will tell
	}
	tcp, _ := a.tcp.Conn.(*reuseport.Conn) // nil if a gater of the user's wraps it
	return &conn{CapableConn: c, tcp: tcp, used: func() { a.settle(c.RemotePeer()) }}, nil
}

// settle prepares a connection for a long life.
func (t *Transport) settle(c manet.Conn, dir network.Direction, scope network.ConnManagementScope) *scopedConn {
	if k, ok := c.(interface {
		SetKeepAliveConfig(net.KeepAliveConfig) error
	}); ok {
		// Fails on a connection that is closed already, as its first read will
		// tell, and on OpenBSD, which has no period for a single connection.
		_ = k.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: keepAlivePeriod, Interval: -1, Count: -1})
	}
	s := &scopedConn{Conn: c, scope: scope}
	if t.metrics != nil {
		s.closed = append(s.closed, t.metrics.opens(dir))
	}
	return s
}
