package serve

// Stats is a snapshot of a server's counters.
type Stats struct {
	Accepted uint64 // connections accepted
	Active   int    // connections in flight: being handled or being closed
	Parked   int    // connections parked

	// LimitWaits counts the accepts that had to wait for a slot because MaxConns was
	// reached. The clients wait in the kernel's queue meanwhile. Connections that the
	// kernel turns away because that queue is full are counted only for the whole
	// system (TcpExtListenOverflows): SO_MEMINFO's drops stay zero on Linux 6.18.
	LimitWaits uint64

	AcceptSkipped uint64 // accept errors of a connection that its peer had given up
	AcceptDelayed uint64 // accept errors for lack of descriptors or memory; each delayed the next accept
	HandlerErrors uint64 // errors that handlers returned
	Panics        uint64 // panics of handlers
	IdleTimeouts  uint64 // connections ended by IdleTimeout
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	s.prepare()
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Parked = s.parked.len()
	st.Active = len(s.conns) - st.Parked
	return st
}
