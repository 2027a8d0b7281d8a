package serve

import (
	"errors"
	"net"
	"runtime/debug"
	"syscall"
	"time"
)

// conn is a connection that the server holds. It has one owner at any time: the
// goroutine that runs its handler, or the parking. It changes owners only under
// parking.mu: in parking.park and in the functions of parking that take it out.
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

// recovered logs v, the value a handler panicked with. A nil v means no panic.
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

// finish closes a connection whose handlers are done and frees its slot. The caller
// owns the connection.
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

// park hands c to the parking and reports whether it did; if not, c is still the
// caller's. With look it first checks for input, and does not park c if there is
// some: the first request has usually arrived with the connection, and a look costs
// less than an event.
func (s *Server) park(c *conn, look bool) bool {
	raw := c.rawConn()
	if raw == nil {
		return false
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return false // closed; the handler's next Read reports it
	}
	return s.parked.park(c, raw, look)
}

// hasInput reports whether the next Read of c would return at once.
func (c *conn) hasInput() bool {
	raw, ready := c.rawConn(), false
	if raw == nil {
		return false
	}
	err := raw.Control(func(fd uintptr) { ready = hasInput(fd) })
	return err == nil && ready
}

// rawConn gives access to c's descriptor, or returns nil if c has none. It is made
// anew each time, since it is rarely needed and a parked connection has to be small.
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

// cut closes the connection at once, whoever owns it: by Abort if it has that method,
// otherwise by Close. It never waits for the peer.
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
