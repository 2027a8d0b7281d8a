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

// keepAlivePeriod is how long a connection may be silent before TCP probes it, as in
// go-libp2p's TCP transport. The interval and number of the probes are Go's.
const keepAlivePeriod = 30 * time.Second

// Listen listens on laddr, exclusively unless reuseport.Transport.Shared is set: a
// port in use gives EADDRINUSE. The gater and the resource manager see each
// connection before it is upgraded. See reuseport.Transport.Listen for addresses and
// errors.
func (t *Transport) Listen(laddr ma.Multiaddr) (transport.Listener, error) {
	l, err := t.reuse.Listen(laddr)
	if err != nil {
		return nil, err
	}
	t.listened.Store(true)
	gated := &gatedListener{GatedMaListener: t.upgrader.GateMaListener(l), t: t}
	return &listener{Listener: t.upgrader.UpgradeGatedMaListener(t, gated), t: t}, nil
}

// gatedListener prepares the connections that the gate has let in.
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
	s := l.t.prepare(c, network.DirInbound, scope)
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
		return c, nil // already closed; its first use reports it
	}
	tcp, _ := a.tcp.Conn.(*reuseport.Conn) // nil if the user's gater wraps it
	return &conn{CapableConn: c, tcp: tcp, used: func() { a.settle(c.RemotePeer()) }}, nil
}

// prepare sets up a connection that is meant to live long.
func (t *Transport) prepare(c manet.Conn, dir network.Direction, scope network.ConnManagementScope) *scopedConn {
	if k, ok := c.(interface {
		SetKeepAliveConfig(net.KeepAliveConfig) error
	}); ok {
		// This fails on a connection that is already closed, which its first read
		// reports, and on OpenBSD, which cannot set the period of a single
		// connection.
		_ = k.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: keepAlivePeriod, Interval: -1, Count: -1})
	}
	s := &scopedConn{Conn: c, scope: scope}
	if t.metrics != nil {
		s.closed = append(s.closed, t.metrics.opens(dir))
	}
	return s
}
