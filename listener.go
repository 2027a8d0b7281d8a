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
	"github.com/reusetransport/reuseport/internal/errno"
	"github.com/reusetransport/reuseport/internal/netaddr"
	"github.com/reusetransport/reuseport/internal/sockopt"
)

// A Listener is a handle of a listening socket. It is what Listen, ListenPort and WrapListener
// return, behind an interface. All methods are safe for concurrent use.
type Listener struct {
	handle
	t       *Transport
	backoff accept.Backoff
}

var _ interface {
	manet.Listener
	syscall.Conn
	File() (*os.File, error)
	SetDeadline(time.Time) error
} = (*Listener)(nil)

func newListener(t *Transport, tcp *net.TCPListener, sock *socket) *Listener {
	l := &Listener{handle: handle{tcp: tcp, socket: sock, closed: make(chan struct{})}, t: t}
	l.backoff.Notify = l.swallowed
	l.backoff.Relieve = func() bool { return t.flushes.GiveUp() > 0 }
	return l
}

// Accept waits for the next connection, a *Conn, which it gives to the caller.
// Errors that do not end the listener do not reach the caller: Accept skips a
// connection that was aborted in the queue. Without descriptors or buffers it
// tries again after 5 ms, doubling to 1 s. It returns net.ErrClosed after Close,
// and the system's error if the socket itself has died (EBADF, EINVAL); dials
// have then stopped using its port.
func (l *Listener) Accept() (manet.Conn, error) {
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
func (l *Listener) next() (*Conn, error) {
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
	if t.KeepAliveConfig.Enable {
		_ = tcp.SetKeepAliveConfig(t.KeepAliveConfig) // the connection works without, as in package net
	}
	local, remote := netaddr.From(tcp.LocalAddr()), netaddr.From(tcp.RemoteAddr())
	t.flushes.Forget(local, remote)
	t.hold(tcp, local, remote)
	return c
}

// drain takes connections out of the kernel's accept queues of a port, except where somebody
// is in Accept. It gives the punches what is theirs and keeps the rest for Accept.
func (t *Transport) drain(port uint16) {
	for _, h := range t.registry.onPort(port) {
		h.socket.queue.fill(t.punches.take, func() (*Conn, error) { return t.acceptNow(h) })
	}
}

// drainTime is how long a look into an accept queue may take. A deadline that has passed
// would make AcceptTCP return before it looks.
const drainTime = time.Millisecond

// acceptNow accepts a connection that is already there. It may set a deadline because nobody
// is in Accept: the caller holds acceptQueue.mu. Afterwards the user's deadline holds again.
func (t *Transport) acceptNow(h *handle) (*Conn, error) {
	if err := h.tcp.SetDeadline(time.Now().Add(drainTime)); err != nil {
		return nil, err
	}
	tcp, err := h.tcp.AcceptTCP()
	_ = h.tcp.SetDeadline(h.deadline) // fails if h was closed meanwhile; tcp lives on
	if err != nil {
		return nil, err
	}
	return t.accepted(tcp), nil
}

// swallowed counts an error that does not end Accept. Of errors that make Accept
// wait it logs the first in a burst.
func (l *Listener) swallowed(e accept.Event) {
	if e.Kind == accept.Harmless {
		l.t.counters.acceptSkipped.Add(1)
		return
	}
	l.t.counters.acceptDelayed.Add(1)
	if e.First {
		l.t.log().Warn("accept waits", "laddr", l.Addr().String(), "err", e.Err)
	}
}

// acceptError returns the error of an Accept that cannot go on. It takes what is dead out of
// the registry.
func (l *Listener) acceptError(err error) error {
	if err == net.ErrClosed { // not from AcceptTCP, which returns a *net.OpError
		return opError("accept", "tcp", netip.AddrPort{}, netaddr.From(l.Addr()), err)
	}
	if accept.Classify(err) == accept.Dead {
		l.t.bury(&l.handle, err)
	}
	return err
}

// bury takes a handle that is dead because of err out of the registry, or all handles of its
// socket if shutdown(2) has ended it (EINVAL).
func (t *Transport) bury(h *handle, err error) {
	if t.registry.remove(h, errors.Is(err, syscall.EINVAL)) {
		t.log().Warn("listener died", "laddr", h.tcp.Addr().String(), "err", err)
	}
}

// listening returns the listeners of t, without wrapped ones that the user has closed behind our
// back: what they leave is a port where nobody listens.
func (t *Transport) listening() *snapshot {
	for _, h := range t.registry.load().wrapped {
		if h.isDead() {
			t.bury(h, net.ErrClosed)
		}
	}
	return t.registry.load()
}

// Close closes this handle; Accept on it returns net.ErrClosed. With the last
// handle the port is free, and dials stop using it. Connections stay open. A
// second Close returns net.ErrClosed.
func (l *Listener) Close() error { return l.t.registry.close(&l.handle) }

// Addr returns the address the socket is bound to.
func (l *Listener) Addr() net.Addr { return l.tcp.Addr() }

// Multiaddr returns Addr as a multiaddr.
func (l *Listener) Multiaddr() ma.Multiaddr {
	m, err := manet.FromNetAddr(l.tcp.Addr())
	if err != nil {
		return nil // no TCP address fails here
	}
	return m
}

// SetDeadline makes Accept calls on this handle return os.ErrDeadlineExceeded after the time
// at, as net.TCPListener.SetDeadline does. A zero at removes the deadline.
func (l *Listener) SetDeadline(at time.Time) error { return l.handle.setDeadline(at) }

// setDeadline sets a deadline beside acceptNow, which sets one of its own for a moment.
func (h *handle) setDeadline(at time.Time) error {
	h.socket.queue.mu.Lock()
	defer h.socket.queue.mu.Unlock()
	h.deadline = at
	return h.tcp.SetDeadline(at)
}

// SyscallConn gives access to the socket, as net.TCPListener.SyscallConn does.
func (l *Listener) SyscallConn() (syscall.RawConn, error) { return l.tcp.SyscallConn() }

// File returns a duplicate of the descriptor, to hand to another process. It
// belongs to the caller; closing it does not affect the listener, nor the reverse.
func (l *Listener) File() (*os.File, error) { return l.t.file(&l.handle) }

// file is the handle's, again where closed connections could give up descriptors for it.
func (t *Transport) file(h *handle) (*os.File, error) {
	f, err := h.file()
	if errno.IsOutOfResources(err) && t.flushes.GiveUp() > 0 {
		f, err = h.file()
	}
	return f, err
}

// file returns a duplicate descriptor of the socket. It does not go through os.File.Fd,
// which would put the socket into blocking mode for a moment, for all its descriptors.
func (h *handle) file() (*os.File, error) {
	raw, err := h.tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	return fileOf(raw, "listener")
}

// fileOf returns a duplicate descriptor of a socket.
func fileOf(raw syscall.RawConn, name string) (*os.File, error) {
	var dup uintptr
	err := withFD(raw, func(fd uintptr) (err error) {
		dup, err = sockopt.Dup(fd)
		return err
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(dup, name), nil
}

// withFD calls f with the descriptor of a socket and returns its error.
func withFD(c syscall.RawConn, f func(fd uintptr) error) error {
	var inner error
	err := c.Control(func(fd uintptr) { inner = f(fd) })
	return errors.Join(err, inner)
}
