package reuseport

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport/internal/accept"
	"github.com/reusetransport/reuseport/internal/netaddr"
	"github.com/reusetransport/reuseport/internal/sockopt"
)

// listener is a handle of a listening socket, as the user sees it.
type listener struct {
	handle
	t       *Transport
	backoff accept.Backoff
}

var _ interface {
	manet.Listener
	syscall.Conn
	File() (*os.File, error)
} = (*listener)(nil)

func newListener(t *Transport, tcp *net.TCPListener, sock *socket) *listener {
	l := &listener{handle: handle{tcp: tcp, socket: sock, closed: make(chan struct{})}, t: t}
	l.backoff.Notify = l.swallowed
	l.backoff.Relieve = func() bool { return t.flushes.GiveUp() > 0 }
	return l
}

// Accept waits for the next connection, a *Conn, which it gives to the caller.
// Errors that are not the listener's end do not reach the caller: a connection
// that was aborted in the queue is skipped, and while descriptors or buffers are
// out Accept tries again after 5 ms, doubling to 1 s. It returns net.ErrClosed
// after Close, and the system's error if the socket itself has died (EBADF,
// EINVAL); dials have then stopped using its port.
func (l *listener) Accept() (manet.Conn, error) {
	for {
		c, err := l.next()
		if err != nil {
			return nil, err
		}
		if !l.t.punches.take(c) {
			l.t.counters.accepted.Add(1)
			return c, nil
		}
	}
}

// next returns a connection that a punch left for Accept, or waits for one.
func (l *listener) next() (*Conn, error) {
	if l.isClosed() {
		return nil, l.acceptError(net.ErrClosed)
	}
	if c := l.socket.queue.enter(); c != nil {
		return c, nil
	}
	defer l.socket.queue.leave()
	tcp, err := accept.Next(&l.backoff, l.closed, l.tcp.AcceptTCP)
	if err != nil {
		return nil, l.acceptError(err)
	}
	return l.t.accepted(tcp), nil
}

// accepted makes a Conn of an accepted connection. It sets SO_LINGER 0, so that a crash
// frees the 4-tuple; where the system refuses, the connection works without.
func (t *Transport) accepted(tcp *net.TCPConn) *Conn {
	c := t.newConn(tcp)
	c.direction = Accepted
	_ = c.SetLinger(0)
	t.flushes.Forget(netaddr.From(tcp.LocalAddr()), netaddr.From(tcp.RemoteAddr()))
	return c
}

// drain looks into the accept queues of a port, unless Accept is being called there. It
// gives the punches what is theirs and keeps the rest for Accept.
func (t *Transport) drain(port uint16) {
	for _, h := range t.registry.onPort(port) {
		h.socket.queue.fill(t.punches.take, func() (*Conn, error) { return t.acceptNow(h) })
	}
}

// drainTime is how long a look into an accept queue may take. A deadline that has passed
// would make AcceptTCP return before it looks.
const drainTime = time.Millisecond

// acceptNow accepts what is there already. Nobody else is in Accept on this handle: the caller holds the lock that lets them in.
func (t *Transport) acceptNow(h *handle) (*Conn, error) {
	if err := h.tcp.SetDeadline(time.Now().Add(drainTime)); err != nil {
		return nil, err
	}
	tcp, err := h.tcp.AcceptTCP()
	_ = h.tcp.SetDeadline(time.Time{}) // fails if the handle was closed meanwhile; tcp is still the socket's
	if err != nil {
		return nil, err
	}
	return t.accepted(tcp), nil
}

// swallowed counts an error that Accept goes on after, and logs the first of a
// burst that makes it wait.
func (l *listener) swallowed(e accept.Event) {
	if e.Kind == accept.Harmless {
		l.t.counters.acceptSkipped.Add(1)
		return
	}
	l.t.counters.acceptDelayed.Add(1)
	if e.First {
		l.t.log().Warn("accept waits", "laddr", l.Addr().String(), "err", e.Err)
	}
}

// acceptError returns the error of an Accept that cannot go on. It takes a dead socket out
// of the registry: one handle whose descriptor is gone, or all where shutdown(2) has ended
// the socket itself (EINVAL).
func (l *listener) acceptError(err error) error {
	if err == net.ErrClosed { // woken from a wait; AcceptTCP itself returns *net.OpError
		return opError("accept", "tcp", netip.AddrPort{}, netaddr.From(l.Addr()), err)
	}
	if accept.Classify(err) == accept.Dead && l.t.registry.remove(&l.handle, errors.Is(err, syscall.EINVAL)) {
		l.t.log().Warn("listener died", "laddr", l.Addr().String(), "err", err)
	}
	return err
}

// Close closes this handle; Accept on it returns net.ErrClosed. Dials stop using
// the port with the last handle, and the port is free. Connections stay open. A
// second Close returns net.ErrClosed.
func (l *listener) Close() error { return l.t.registry.close(&l.handle) }

// Addr returns the address the socket is bound to.
func (l *listener) Addr() net.Addr { return l.tcp.Addr() }

// Multiaddr returns Addr as a multiaddr.
func (l *listener) Multiaddr() ma.Multiaddr {
	m, err := manet.FromNetAddr(l.tcp.Addr())
	if err != nil {
		return nil // no TCP address fails here
	}
	return m
}

// SyscallConn gives access to the socket, as net.TCPListener.SyscallConn does.
func (l *listener) SyscallConn() (syscall.RawConn, error) { return l.tcp.SyscallConn() }

// File returns a duplicate of the descriptor, to hand to another process. It
// belongs to the caller; closing it does not affect the listener, nor the reverse.
func (l *listener) File() (*os.File, error) { return l.file() }

// file returns a duplicate descriptor of the socket. It does not go through os.File.Fd,
// which would make the shared socket block for a moment.
func (h *handle) file() (*os.File, error) {
	raw, err := h.tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	var dup uintptr
	err = withFD(raw, func(fd uintptr) (err error) {
		dup, err = sockopt.Dup(fd)
		return err
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(dup, "listener"), nil
}

// withFD calls f with the descriptor of a socket and returns its error.
func withFD(c syscall.RawConn, f func(fd uintptr) error) error {
	var inner error
	err := c.Control(func(fd uintptr) { inner = f(fd) })
	return errors.Join(err, inner)
}
