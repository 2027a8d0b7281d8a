package reuseport

import (
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport/internal/flush"
)

// Conn is a TCP connection that a Transport dialed or accepted. It belongs to the caller
// of Dial, Accept or Punch: closing a listener or shutting the Transport down does not
// close it.
type Conn struct {
	*net.TCPConn

	flusher   *flush.Flusher // delivers what Close leaves behind
	stall     time.Duration  // Transport.FlushTimeout
	state     atomic.Uint32  // the flags below
	reused    bool
	cause     Cause
	direction Direction
	punched   bool

	laddr atomic.Pointer[ma.Multiaddr] // made when first asked for
	raddr atomic.Pointer[ma.Multiaddr]
}

// The flags of Conn.state. Keeping them in one field keeps a Conn at 48 bytes
// (TestHeapPerLiveConnection).
const (
	lingersZero uint32 = 1 << iota // SO_LINGER 0 is set: Close frees the 4-tuple
	isClosed                       // Close or Abort was called
	isFiled                        // File was called: the socket may outlive Close
)

// set sets a flag and reports whether it was clear.
func (c *Conn) set(flag uint32) bool { return c.state.Or(flag)&flag == 0 }

// is reports whether a flag is set.
func (c *Conn) is(flag uint32) bool { return c.state.Load()&flag != 0 }

// The methods that go-libp2p's TCP transport and its tcpreuse expect of connections.
var _ interface {
	manet.Conn
	io.ReaderFrom
	io.WriterTo
	syscall.Conn
	CloseRead() error
	CloseWrite() error
	MultipathTCP() (bool, error)
	SetLinger(sec int) error
	SetKeepAlive(on bool) error
	SetKeepAlivePeriod(d time.Duration) error
} = (*Conn)(nil)

// Reused reports whether the connection was dialed from a port that the Transport
// listened on. It is read off the socket's local address. It is false for accepted
// connections.
func (c *Conn) Reused() bool { return c.reused }

// Cause returns why a dialed connection does not reuse a listening port. It is NoCause
// for a reused or accepted connection.
func (c *Conn) Cause() Cause { return c.cause }

// Direction returns whether the connection was dialed or accepted. For a punch it is
// Accepted if the peer's SYN came first and arrived at a listener; then the other side
// has Dialed. A simultaneous open is Dialed on both sides.
func (c *Conn) Direction() Direction { return c.direction }

// ReadFrom copies r to c, in the kernel where package net can. A *Conn as r, or as the source of
// an *io.LimitedReader, is as good as its *net.TCPConn: io.CopyN between two of them splices
// (Linux).
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	switch from := r.(type) {
	case *Conn:
		return c.TCPConn.ReadFrom(from.TCPConn)
	case *io.LimitedReader:
		if conn, ok := from.R.(*Conn); ok {
			bare := io.LimitedReader{R: conn.TCPConn, N: from.N}
			n, err := c.TCPConn.ReadFrom(&bare)
			from.N = bare.N
			return n, err
		}
	}
	return c.TCPConn.ReadFrom(r)
}

// Direction is how a connection came about.
type Direction uint8

const (
	Dialed   Direction = iota // our SYN began it, or both sides' at one time
	Accepted                  // it arrived at a listener
)

// String returns "dialed" or "accepted".
func (d Direction) String() string {
	if d == Accepted {
		return "accepted"
	}
	return "dialed"
}

// LocalMultiaddr returns the local address: /ip4/…/tcp/…, /ip6/…/tcp/…, or
// /ip6zone/…/ip6/…/tcp/… for a link-local one.
func (c *Conn) LocalMultiaddr() ma.Multiaddr { return multiaddr(&c.laddr, c.LocalAddr) }

// RemoteMultiaddr returns the address of the peer; an IPv4 peer of a dual-stack
// listener shows as /ip4.
func (c *Conn) RemoteMultiaddr() ma.Multiaddr { return multiaddr(&c.raddr, c.RemoteAddr) }

// multiaddr returns the multiaddr in kept. If there is none it makes it from addr first.
func multiaddr(kept *atomic.Pointer[ma.Multiaddr], addr func() net.Addr) ma.Multiaddr {
	if m := kept.Load(); m != nil {
		return *m
	}
	m, err := manet.FromNetAddr(addr())
	if err != nil {
		return nil // no TCP address fails here
	}
	kept.Store(&m)
	return m
}
