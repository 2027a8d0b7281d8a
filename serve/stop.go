package serve

import (
	"context"
	"time"
)

// Done returns a channel that is closed when Shutdown or Close begins. A handler that
// would wait for another request should end then.
func (s *Server) Done() <-chan struct{} {
	s.prepare()
	return s.done
}

// Shutdown stops accepting, closes the listeners and the parked connections, and
// waits until all handlers have returned or ctx is done. It returns nil or the
// context's error.
//
// A parked connection goes to its handler once more if data waits on it, or if no
// handler has seen it yet (ParkNew) and it is less than five seconds old. If that
// handler parks it again, the connection is closed.
//
// A handler that waits for a client that says nothing is not waited for long. Shutdown
// makes its Read return io.EOF, as soon as it sees one of these:
//
//   - The handler was called because the connection could not be parked, and nothing
//     has come since.
//   - It is the first of its connection, and nothing has come yet. For five seconds,
//     nothing has gone either. (net/http gives a new connection as long.)
//   - It is the first of a connection that cannot be parked, and for five seconds
//     nothing has come or gone. (What came before may be only a handshake.)
//
// On systems other than Linux, Shutdown does not see this, and a handler has to bound
// its own waiting; see the section on TLS in the package documentation.
//
// Connections in the accept queue of a listener are reset when it closes, unless
// another descriptor of that socket is open; see the package documentation on rolling
// restarts.
//
// After Close, or after a Shutdown that returned early, Shutdown waits for the
// handlers that are left.
func (s *Server) Shutdown(ctx context.Context) error {
	s.prepare()
	s.stop(false)
	s.unpark()
	tick := time.NewTicker(idlePoll)
	defer tick.Stop()
	for {
		s.endIdle()
		select {
		case <-s.drained:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// idlePoll is how often Shutdown looks for new connections that have become idle.
const idlePoll = 100 * time.Millisecond

// unpark ends all stays.
func (s *Server) unpark() {
	for _, c := range s.parked.close() {
		young := c.isNew() && s.parked.lasted(c) < newPatience
		if young || c.hasInput() {
			s.resume(c)
		} else {
			s.finish(c)
		}
	}
}

// Close stops accepting, closes the listeners, and cuts every connection at once: by
// its method Abort or that of its socket if there is one, otherwise by Close of the
// socket (behind TLS, without an alert to the peer). It does not wait for the
// handlers, whose reads and writes now fail; call Shutdown afterwards to wait for
// them. Close always returns nil.
func (s *Server) Close() error {
	s.prepare()
	s.stop(true)
	for _, c := range s.held() {
		c.cut()
	}
	for _, c := range s.parked.close() {
		s.finish(c)
	}
	return nil
}

// stop ends the accept loops. If cut is set, connections that start later are cut.
func (s *Server) stop(cut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped {
		s.stopped = true
		close(s.done)
	}
	s.cut = s.cut || cut
	for lp := range s.loops {
		_ = closeListener(lp.Listener) // leave reports a lasting error
	}
	s.checkDrained()
}

// held returns the connections that the server holds.
func (s *Server) held() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		held = append(held, c)
	}
	return held
}

// checkDrained wakes Shutdown when no loop and no connection is left. The caller
// holds mu.
func (s *Server) checkDrained() {
	if !s.stopped || len(s.loops) > 0 || len(s.conns) > 0 {
		return
	}
	select {
	case <-s.drained:
	default:
		close(s.drained)
	}
}

func (s *Server) stopping() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}
