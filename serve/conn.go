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
	next Handler
	wait
	parkedConn
}

// start begins to serve a connection for which a slot was taken.
func (s *Server) start(nc net.Conn) {
	c := &conn{Conn: nc, next: s.Handler}
	if c.isLayered() {
		c.kind = freshLayer
	}
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
	if s.ParkNew {
		s.firstWait(c)
	}
	for {
		next, err := c.callNext()
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
		s.laterWait(c)
	}
}

// callNext calls the next handler. Whatever it returns, it waits no longer.
func (c *conn) callNext() (Handler, error) {
	defer c.endWait()
	return c.next(c.Conn)
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
	if c.isLayered() {
		return false
	}
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

// isLayered reports whether c lies on top of the socket, as tls.Conn does. Only its own
// Read tells whether there is input, since it may have taken some from the socket.
func (c *conn) isLayered() bool {
	_, ok := c.Conn.(syscall.Conn)
	return !ok
}

// maxLayers is how many layers on top of a socket are looked through.
const maxLayers = 8

// socket returns the connection with a descriptor that lies below all layers of c.
func (c *conn) socket() net.Conn { return socketOf(c.Conn) }

// socketOf returns the connection with a descriptor that lies below all layers of nc. If there
// is none, or a layer has no NetConn as tls.Conn has, it returns the lowest one it sees.
func socketOf(nc net.Conn) net.Conn {
	for range maxLayers {
		if _, ok := nc.(syscall.Conn); ok {
			break
		}
		layer, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		nc = layer.NetConn()
	}
	return nc
}

// rawConn gives access to the descriptor of c's socket, or returns nil if there is none.
// It is made anew each time, since it is rarely needed and a parked connection has to be
// small.
func (c *conn) rawConn() syscall.RawConn {
	sc, ok := c.socket().(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// cut closes the connection at once, whoever owns it. It never waits for the peer, as
// Close of a tls.Conn may.
func (c *conn) cut() {
	_ = c.abort() // closed already, by its handler or by its peer's reset
}

// abort calls Abort of the connection or its socket if there is one, otherwise Close of
// the socket.
func (c *conn) abort() error {
	socket := c.socket()
	for _, nc := range []net.Conn{c.Conn, socket} {
		if a, ok := nc.(interface{ Abort() error }); ok {
			return a.Abort()
		}
	}
	return socket.Close()
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
