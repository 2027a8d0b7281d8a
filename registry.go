package reuseport

import (
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// socket is one listening socket. Its handles have descriptors that are duplicates of one
// another, so that closing one loses no connection.
type socket struct {
	laddr    listenAddr
	asked    listenAddr // by the user; not laddr where the port was 0 or IPv6 is off
	reusable bool       // dials may bind its port
	handles  []*handle
	queue    acceptQueue
	foreign  sync.Once // the warning that the socket belongs to another user
}

// handle is one descriptor of a listening socket.
type handle struct {
	tcp      *net.TCPListener
	socket   *socket
	closed   chan struct{} // closed by the first Close
	deadline time.Time     // the user's, for Accept; guarded by acceptQueue.mu
	once     sync.Once
	wrapped  syscall.RawConn // tcp, which the user may close behind our back; nil if Listen made it
}

// isDead reports whether a wrapped listener was closed behind our back. It asks package net and
// not the system.
func (h *handle) isDead() bool { return h.wrapped.Control(func(uintptr) {}) != nil }

// wake ends the wait of an Accept that waits because of an error.
func (h *handle) wake() { h.once.Do(func() { close(h.closed) }) }

// isClosed reports whether Close was called on this handle.
func (h *handle) isClosed() bool {
	select {
	case <-h.closed:
		return true
	default:
		return false
	}
}

// snapshot is the state of the registry at one moment. It is never changed once
// published, so that a dial reads it without a lock.
type snapshot struct {
	sockets []*socket
	addrs   []listenAddr // of the reusable sockets, oldest first
	sorted  sortedAddrs  // the same
	wrapped []*handle    // of listeners made elsewhere
	shut    bool
}

// find returns our socket on exactly laddr, or nil. Nothing is found for port 0, which asks
// for a new port. A dual-stack socket is also the one for [::] alone: a second socket there
// would get no connection.
func (s *snapshot) find(laddr listenAddr) *socket {
	i := slices.IndexFunc(s.sockets, func(sock *socket) bool {
		return sock.laddr == laddr || sock.asked == laddr && laddr.Port() != 0 ||
			sock.laddr.dual && sock.laddr.AddrPort == laddr.AddrPort
	})
	if i < 0 {
		return nil
	}
	return s.sockets[i]
}

// overlaps reports whether one of our sockets holds laddr's port on an address that
// includes laddr or is included in it.
func (s *snapshot) overlaps(laddr listenAddr) bool {
	return slices.ContainsFunc(s.sockets, func(sock *socket) bool { return sock.laddr.overlaps(laddr) })
}

// mixes reports whether dials will bind laddr's port on more than one address: laddr is
// dual-stack, or another of our listeners has the same port.
func (s *snapshot) mixes(laddr listenAddr) bool {
	return laddr.dual || slices.ContainsFunc(s.sockets, func(sock *socket) bool { return sock.laddr.Port() == laddr.Port() })
}

// without returns a copy of the sockets without sock.
func (s *snapshot) without(sock *socket) []*socket {
	return slices.DeleteFunc(slices.Clone(s.sockets), func(other *socket) bool { return other == sock })
}

// registry keeps the listening sockets of a Transport. Writers hold mu and publish a new
// snapshot; readers load the current one.
type registry struct {
	mu      sync.Mutex
	current atomic.Pointer[snapshot]
	open    atomic.Int64 // handles
}

func (r *registry) load() *snapshot {
	if s := r.current.Load(); s != nil {
		return s
	}
	return &snapshot{}
}

// publish makes sockets the current state. The caller holds mu.
func (r *registry) publish(sockets []*socket, shut bool) {
	s := &snapshot{sockets: sockets, shut: shut}
	for _, sock := range sockets {
		if sock.reusable {
			s.addrs = append(s.addrs, sock.laddr)
		}
		for _, h := range sock.handles {
			if h.wrapped != nil {
				s.wrapped = append(s.wrapped, h)
			}
		}
	}
	s.sorted = sortAddrs(s.addrs)
	r.current.Store(s)
}

// add enters a handle. With the first handle it enters the socket. The caller holds mu.
func (r *registry) add(h *handle) {
	h.socket.handles = append(h.socket.handles, h)
	r.open.Add(1)
	if len(h.socket.handles) == 1 {
		r.publish(append(slices.Clone(r.load().sockets), h.socket), false)
	}
}

// drop takes a handle out. With the last handle it takes the socket out. It reports whether
// the handle was there. The caller holds mu.
func (r *registry) drop(h *handle) bool {
	i := slices.Index(h.socket.handles, h)
	if i < 0 {
		return false
	}
	h.socket.handles = slices.Delete(h.socket.handles, i, i+1)
	r.open.Add(-1)
	now := r.load()
	switch {
	case len(h.socket.handles) == 0:
		r.publish(now.without(h.socket), now.shut)
	case h.wrapped != nil:
		r.publish(now.sockets, now.shut)
	}
	return true
}

// has reports whether tcp is one of our handles. The caller holds mu.
func (r *registry) has(tcp *net.TCPListener) bool {
	isIt := func(h *handle) bool { return h.tcp == tcp }
	return slices.ContainsFunc(r.load().sockets, func(sock *socket) bool { return slices.ContainsFunc(sock.handles, isIt) })
}

// remove takes out a handle whose descriptor is dead; if all is set, every handle of its
// socket. It reports whether the handle was there.
func (r *registry) remove(h *handle, all bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	removed := r.drop(h)
	for all && len(h.socket.handles) > 0 {
		r.drop(h.socket.handles[0])
	}
	return removed
}

// close takes a handle out and closes it. With the last handle it resets what waits in our
// own queue, as the kernel does with its queue.
func (r *registry) close(h *handle) error {
	h.wake()
	err := r.dropAndClose(h)
	if r.holds(h.socket) {
		return err
	}
	return errors.Join(err, h.socket.queue.abort())
}

// dropAndClose takes a handle out and closes it under one lock. Otherwise a Listen between
// the two would no longer find the socket and would meet it as a bind conflict
// (TestListenWhileClosing).
func (r *registry) dropAndClose(h *handle) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(h)
	return h.tcp.Close()
}

// holds reports whether a handle of sock is open.
func (r *registry) holds(sock *socket) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(sock.handles) > 0
}

// onPort returns one handle of each socket on port.
func (r *registry) onPort(port uint16) []*handle {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []*handle
	for _, sock := range r.load().sockets {
		if sock.laddr.Port() == port && len(sock.handles) > 0 {
			all = append(all, sock.handles[0])
		}
	}
	return all
}

// shut empties the registry for good and closes what it held.
func (r *registry) shut() error {
	var errs []error
	for _, h := range r.empty() {
		if err := r.close(h); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// empty takes all handles out and returns them.
func (r *registry) empty() []*handle {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []*handle
	for _, sock := range r.load().sockets {
		all = append(all, sock.handles...)
		sock.handles = nil
	}
	r.open.Store(0)
	r.publish(nil, true)
	return all
}
