package serve

import "context"

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
// A parked connection goes to its handler once more if data waits on it or if no
// handler has seen it yet (ParkNew). Such a handler has to bound its own waiting; if
// it parks the connection again, the connection is closed.
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
	for _, c := range s.parked.close() {
		if !c.served || c.hasInput() {
			s.resume(c)
		} else {
			s.finish(c)
		}
	}
	select {
	case <-s.drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close stops accepting, closes the listeners, and cuts every connection at once: by
// its method Abort if it has one, otherwise by its Close. It does not wait for the
// handlers, whose reads and writes now fail; call Shutdown afterwards to wait for
// them. Close always returns nil.
func (s *Server) Close() error {
	s.prepare()
	for _, c := range s.stop(true) {
		c.cut()
	}
	for _, c := range s.parked.close() {
		s.finish(c)
	}
	return nil
}

// stop ends the accept loops. If cut is set it returns the connections that the
// server holds, and later ones are cut as they start.
func (s *Server) stop(cut bool) []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped {
		s.stopped = true
		close(s.done)
	}
	for lp := range s.loops {
		_ = closeListener(lp.Listener) // leave reports a lasting error
	}
	s.checkDrained()
	if !cut {
		return nil
	}
	s.cut = true
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
