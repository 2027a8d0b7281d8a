package reuseport

import (
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	// maxWaiting bounds the connections that punches have taken from the accept
	// queue of one socket and that are not for them.
	maxWaiting = 128

	// drainTime is how long a look into an accept queue may take. A deadline that
	// has passed would make AcceptTCP return before it looks.
	drainTime = time.Millisecond
)

// acceptQueue is what punches took out of a socket's accept queue and is not for
// them. A connection that nobody accepts stays in the kernel's queue, where a
// punch cannot see whose it is.
type acceptQueue struct {
	mu        sync.Mutex
	accepting int // callers in Accept, on any handle: they find a punch's connection
	waiting   []*Conn
}

// enter begins an Accept: it returns a connection that waits, or counts the
// caller in, who then has to call leave.
func (q *acceptQueue) enter() *Conn {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) > 0 {
		c := q.waiting[0]
		q.waiting = slices.Delete(q.waiting, 0, 1)
		return c
	}
	q.accepting++
	return nil
}

func (q *acceptQueue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.accepting--
}

// abort resets what waits, as the kernel does with its queue when a socket closes.
func (q *acceptQueue) abort() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	var errs []error
	for _, c := range q.waiting {
		errs = append(errs, c.Abort())
	}
	q.waiting = nil
	return errors.Join(errs...)
}

// drain looks into the accept queues of a port on which nobody calls Accept, gives
// the punches what is theirs and keeps the rest for Accept.
func (t *Transport) drain(port uint16) {
	for _, l := range t.registry.onPort(port) {
		l.drain()
	}
}

func (l *listener) drain() {
	q := &l.socket.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = slices.DeleteFunc(q.waiting, l.t.punches.take) // what an earlier punch found
	for q.accepting == 0 && len(q.waiting) < maxWaiting {
		c, err := l.acceptNow()
		if err != nil {
			return // nothing waits; other errors are for Accept to meet
		}
		if c != nil && !l.t.punches.take(c) {
			q.waiting = append(q.waiting, c)
		}
	}
}

// acceptNow accepts what is there already; nil if that has died meanwhile. Nobody else is in Accept on this
// handle: the caller holds the lock that lets them in.
func (l *listener) acceptNow() (*Conn, error) {
	if err := l.tcp.SetDeadline(time.Now().Add(drainTime)); err != nil {
		return nil, err
	}
	tcp, err := l.tcp.AcceptTCP()
	_ = l.tcp.SetDeadline(time.Time{}) // fails if the handle was closed meanwhile; tcp is still the socket's
	if err != nil {
		return nil, err
	}
	return l.wrap(tcp), nil
}

// holds says whether a handle of sock is open.
func (r *registry) holds(sock *socket) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(sock.handles) > 0
}

// onPort returns one handle of each socket on port.
func (r *registry) onPort(port uint16) []*listener {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []*listener
	for _, sock := range r.load().sockets {
		if sock.laddr.Port() == port && len(sock.handles) > 0 {
			all = append(all, sock.handles[0])
		}
	}
	return all
}
