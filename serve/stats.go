package serve

// Stats is a snapshot of a server's counters.
type Stats struct {
	Accepted uint64 // connections accepted
	Active   int    // connections in flight: a handler runs, or they are being closed
	Parked   int    // connections parked

	// LimitWaits counts how often MaxConns was reached: accepts that first waited
	// for a slot, while the clients waited in the kernel's queue. What the kernel
	// turns away when that is full too, it counts for the whole system
	// (TcpExtListenOverflows) and not for a socket: SO_MEMINFO's drops stay zero on
	// Linux 6.18.
	LimitWaits uint64

	AcceptSkipped uint64 // accept errors that cost one connection, given up by its peer
	AcceptDelayed uint64 // accept errors for want of descriptors or memory; each delayed the next accept
	HandlerErrors uint64 // errors that handlers returned
	Panics        uint64 // panics of handlers
	IdleTimeouts  uint64 // parked connections closed after IdleTimeout
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
