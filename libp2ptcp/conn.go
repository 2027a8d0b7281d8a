package libp2ptcp

import (
	"fmt"
	"sync"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/transport"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
)

// scopedConn is a TCP connection, dialed or accepted, that returns its resources to
// the resource manager when it closes. The upgrader does so for the connections it
// hands out. But go-libp2p v0.51 silently drops those that end between handshake and
// Accept, and keeps their scopes (TestScopesOfShortConnections).
//
// SO_LINGER is left alone: reuseport sets it, and its Close delivers data and frees
// the 4-tuple, where go-libp2p's own transport resets the connection.
type scopedConn struct {
	manet.Conn
	scope  network.ConnManagementScope
	closed []func()
	once   sync.Once
}

// Close closes the connection and ends its scope. A second Close returns
// net.ErrClosed.
func (c *scopedConn) Close() error {
	c.once.Do(func() {
		c.scope.Done()
		for _, f := range c.closed {
			f()
		}
	})
	return c.Conn.Close()
}

// conn is the connection that the host gets. It gives access to the TCP connection
// below:
//
//	var tcp *reuseport.Conn
//	if c.As(&tcp) && tcp.Reused() { … } // c is a network.Conn
type conn struct {
	transport.CapableConn
	tcp  *reuseport.Conn
	used func() // called when the host begins to use it; may be nil
	once sync.Once
}

var (
	_ network.ConnStat = (*conn)(nil)
	_ fmt.Stringer     = (*conn)(nil)
)

// As finds the *reuseport.Conn below, or else what the muxer finds. The connection
// still belongs to the host: reading, writing or closing the *reuseport.Conn breaks
// it.
func (c *conn) As(target any) bool {
	if t, ok := target.(**reuseport.Conn); ok && c.tcp != nil {
		*t = c.tcp
		return true
	}
	return c.CapableConn.As(target)
}

// AcceptStream waits for a stream of the peer. The swarm calls it first once the
// connection is in its list, and that is when used must be called.
func (c *conn) AcceptStream() (network.MuxedStream, error) {
	if c.used != nil {
		c.once.Do(c.used)
	}
	return c.CapableConn.AcceptStream()
}

// Stat returns the upgrader's statistics, for the swarm.
func (c *conn) Stat() network.ConnStats {
	if s, ok := c.CapableConn.(network.ConnStat); ok {
		return s.Stat()
	}
	return network.ConnStats{}
}

// String returns the upgrader's description, for logs.
func (c *conn) String() string { return fmt.Sprint(c.CapableConn) }
