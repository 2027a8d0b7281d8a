package serve

import (
	"errors"
	"net"
	"runtime/debug"
	"syscall"
	"time"
)

// conn is a connection that the server holds. At any time it has one owner: the
// goroutine that runs its handler, or the parking. It changes hands only in
// parking.park and in the functions of parking that take it out, under
// parking.mu.
type conn struct {
	net.Conn
	next   Handler
	served bool // a handler has been called
	parkedConn
}

// start begins to serve a connection for which a slot was taken.
func (s *Server) start(nc net.Conn) {
	c := &conn{Conn: nc, next: s.Handler}
	s.mu.Lock()
	s.stats.Accepted++
	s.conns[c] = struct{}{}
	cut := s.cut
	s.mu.Unlock()
	switch {
	case cut:
		c.cut()
		s.finish(c)
	case s.ParkNew && s.park(c, true):
	default:
		go s.run(c)
	}
}

// run calls the handlers of a connection until it is parked or done.
func (s *Server) run(c *conn) {
	done := true
	defer func() {
		if done {
			s.recovered(c, recover())
			s.finish(c)
		}
	}()
	c.served = true
	for {
		next, err := c.next(c.Conn)
		if err != nil {
			s.failed(c, err)
		}
		if err != nil || next == nil {
			return
		}
		if c.next = next; s.park(c, false) {
			done = false
			return
		}
		if s.stopping() {
			return
		}
	}
}

// recovered logs what a handler panicked with, if it did.
func (s *Server) recovered(c *conn, v any) {
	if v == nil {
		return
	}
	s.count(&s.stats.Panics)
	s.log().Error("handler panicked", "raddr", c.RemoteAddr(), "panic", v, "stack", string(debug.Stack()))
}

func (s *Server) failed(c *conn, err error) {
	s.count(&s.stats.HandlerErrors)
	s.log().Warn("handler failed", "raddr", c.RemoteAddr(), "err", err)
}

// finish closes a connection whose handlers are done, and frees its slot. The
// caller owns it.
func (s *Server) finish(c *conn) {
	if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		s.log().Debug("closing connection", "raddr", c.RemoteAddr(), "err", err)
	}
	s.mu.Lock()
	delete(s.conns, c)
	s.checkDrained()
	s.mu.Unlock()
	s.release()
}

// park gives c away; false means that c is still the caller's. With look it
// looks first whether there is something to read, and then does not park: the
// request of a new connection mostly came with it, and a look costs less than the
// event would.
func (s *Server) park(c *conn, look bool) bool {
	raw := c.rawConn()
	if raw == nil {
		return false
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return false // closed: the handler's Read will tell
	}
	return s.parked.park(c, raw, look)
}

// hasInput says whether c's next Read would not wait.
func (c *conn) hasInput() bool {
	raw, ready := c.rawConn(), false
	if raw == nil {
		return false
	}
	err := raw.Control(func(fd uintptr) { ready = hasInput(fd) })
	return err == nil && ready
}

// rawConn gives access to the descriptor to wait for; nil if there is none. It is
// not kept: a parked connection has to be small, and it seldom is needed.
func (c *conn) rawConn() syscall.RawConn {
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// cut closes the connection at once, whoever owns it: by Abort if it has that,
// without waiting for the peer in any case.
func (c *conn) cut() {
	var err error
	if a, ok := c.Conn.(interface{ Abort() error }); ok {
		err = a.Abort()
	} else {
		err = c.Close()
	}
	_ = err // closed already, by its handler or by its peer's reset
}

// resume runs the handler of a connection that was parked and is readable.
func (s *Server) resume(c *conn) { go s.run(c) }

// expire ends a parked connection.
func (s *Server) expire(c *conn, why reason) {
	if why == idle {
		s.count(&s.stats.IdleTimeouts)
	}
	s.finish(c)
}
