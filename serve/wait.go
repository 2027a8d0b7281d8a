package serve

import (
	"sync"
	"time"
)

// newPatience is how long a new connection on which nothing happens holds Shutdown. It
// is net/http's.
const newPatience = 5 * time.Second

// wait is what ends the waiting of the handler that runs.
type wait struct {
	mu sync.Mutex // of what follows; Server.mu may be taken inside it
	call
	timer *time.Timer   // of IdleTimeout; nil until first needed
	began time.Duration // when IdleTimeout was started, since epoch
}

// call is what is known about the running call of a handler. The server does not see
// what a handler reads, but the kernel counts what comes.
type call struct {
	kind  callKind
	heard uint64 // bytes that had come before a call of the kind again
}

type callKind int8

const (
	fresh      callKind = iota // the first of a connection, or yet to come
	freshLayer                 // as fresh, but on a layer, whose handshake counts as data
	again                      // without input, since a layer cannot be parked
	busy                       // there was input; or no call runs
)

// traffic is what the kernel knows about the data on a socket.
type traffic struct {
	received uint64        // bytes that have come, read or not
	quiet    time.Duration // since data last came or went
	input    bool          // data, a FIN or an error is unread
}

// idles reports whether the handler waits for a peer that says nothing, as far as the
// kernel can tell. A new peer is given some patience: it may be about to speak, or be
// listening. A handshake cannot be told from a request, so for a new layer the quiet alone
// decides.
func (c call) idles(t traffic, patience time.Duration) bool {
	switch {
	case t.input || c.kind == busy:
		return false
	case c.kind == again:
		return t.received == c.heard
	case c.kind == freshLayer:
		return t.quiet >= patience
	}
	return t.received == 0 && t.quiet >= patience
}

// firstWait lets IdleTimeout end the first wait of a connection that was to be parked
// and could not be.
func (s *Server) firstWait(c *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kind == freshLayer {
		_, ok := c.traffic()
		s.limitWait(c, ok)
	}
}

// laterWait prepares c for a handler that is called because c cannot be parked.
func (s *Server) laterWait(c *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.SetDeadline(time.Time{}); err != nil {
		return // closed; the handler's next Read reports it
	}
	t, ok := c.traffic()
	if t.input {
		return
	}
	if ok {
		c.call = call{again, t.received}
	}
	s.limitWait(c, ok)
}

// limitWait starts IdleTimeout. If the traffic cannot be seen, all that the server can
// do is to set a deadline. The caller holds c.mu.
func (s *Server) limitWait(c *conn, seen bool) {
	c.began = time.Since(epoch)
	switch {
	case s.IdleTimeout <= 0:
	case !seen:
		_ = c.SetReadDeadline(time.Now().Add(s.IdleTimeout)) // closed; the next Read reports it
	case c.timer == nil:
		c.timer = time.AfterFunc(s.IdleTimeout, func() { s.waitedLong(c) })
	default:
		c.timer.Reset(s.IdleTimeout)
	}
}

// waitedLong ends the wait of c if nothing has come in IdleTimeout.
func (s *Server) waitedLong(c *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(epoch)-c.began < s.IdleTimeout {
		return // this was the timer of the wait before
	}
	t, ok := c.traffic()
	switch {
	case !ok:
	case c.idles(t, s.IdleTimeout):
		s.count(&s.stats.IdleTimeouts)
		c.endReads()
	case c.kind == freshLayer && !t.input:
		c.timer.Reset(s.IdleTimeout - t.quiet)
	case c.kind == freshLayer:
		c.timer.Reset(s.IdleTimeout)
	}
}

// endWait notes that the handler has returned.
func (c *conn) endWait() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kind = busy
	if c.timer != nil {
		c.timer.Stop()
	}
}

// isNew reports whether no handler has returned yet.
func (c *conn) isNew() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kind == fresh || c.kind == freshLayer
}

// endIdle ends the waits of the handlers to which nothing comes.
func (s *Server) endIdle() {
	for _, c := range s.held() {
		c.endIfIdle()
	}
}

func (c *conn) endIfIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kind == busy {
		return
	}
	if t, ok := c.traffic(); ok && c.idles(t, newPatience) {
		c.endReads()
	}
}

// endReads makes the handler's reads return io.EOF once it has read all that has come.
// Its writes go on: if it was not waiting but working on what a layer had read ahead,
// its answer is not lost.
func (c *conn) endReads() {
	if r, ok := c.socket().(interface{ CloseRead() error }); ok {
		_ = r.CloseRead() // closed already, by its handler or by its peer's reset
	}
}
