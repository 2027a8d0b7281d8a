package flush

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// redialWait is how long a dial waits for a 4-tuple that we closed. It leaves time for a round
// trip, a delayed acknowledgement, and a segment that has to be sent again.
const redialWait = time.Second

// settledWait is how long a dial waits where waiting does not help: the connection is gone, or
// in TIME_WAIT. The dial may have met the connection just before that.
const settledWait = 50 * time.Millisecond

// maxRecent bounds how many closes are remembered.
const maxRecent = 1024

// recent remembers for a while the 4-tuples of closes that were left to the system. A dial that
// finds such a 4-tuple taken tries again.
type recent struct {
	count atomic.Int32 // while it is zero, dials do not take the lock

	mu    sync.Mutex
	until map[tuple]time.Time
	order []tuple // oldest first; those that were forgotten since are no longer in until
}

type tuple struct{ laddr, raddr netip.AddrPort }

// Note remembers a close that the system completes.
func (f *Flusher) Note(laddr, raddr netip.AddrPort) {
	f.recent.note(tuple{laddr, raddr}, time.Now(), redialWait)
}

// noteEnd is Note for a connection that the Flusher ends.
func (f *Flusher) noteEnd(c *Closing, s status) {
	wait := redialWait
	if s.broken || s.finished && s.unacked == 0 {
		wait = settledWait
	}
	f.recent.note(tuple{c.Laddr, c.Raddr}, time.Now(), wait)
}

// Forget forgets a close, because its 4-tuple has a new connection.
func (f *Flusher) Forget(laddr, raddr netip.AddrPort) { f.recent.forget(tuple{laddr, raddr}) }

func (r *recent) note(t tuple, now time.Time, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.until == nil {
		r.until = make(map[tuple]time.Time)
	}
	for len(r.order) > 0 && (len(r.order) >= maxRecent || !now.Before(r.until[r.order[0]])) {
		delete(r.until, r.order[0])
		r.order = r.order[1:]
	}
	r.until[t] = now.Add(wait)
	r.order = append(r.order, t)
	r.count.Store(int32(len(r.until)))
}

func (r *recent) forget(t tuple) {
	if r.count.Load() == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.until, t)
	r.count.Store(int32(len(r.until)))
}

// has reports whether the 4-tuple of a close may still be in the way.
func (r *recent) has(t tuple, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return now.Before(r.until[t])
}

// hasPort reports whether a close with this local port and peer is remembered.
func (r *recent) hasPort(port uint16, raddr netip.AddrPort) bool {
	if r.count.Load() == 0 {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for t := range r.until {
		if t.raddr == raddr && t.laddr.Port() == port {
			return true
		}
	}
	return false
}

// sleep waits for d. It reports false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
