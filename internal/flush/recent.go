package flush

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// redialWait is how long a 4-tuple that we closed may be in the way of a dial: a round trip,
// a delayed acknowledgement, and a segment that has to be sent again.
const redialWait = time.Second

// maxRecent bounds how many closes are remembered.
const maxRecent = 1024

// recent remembers the 4-tuples of closes that went to the system within redialWait, so that
// a dial which finds its 4-tuple taken knows that trying again makes sense.
type recent struct {
	count atomic.Int32 // lets dials pass by without the lock

	mu    sync.Mutex
	at    map[tuple]time.Time
	order []tuple // oldest first; one that was forgotten since is in no map
}

type tuple struct{ laddr, raddr netip.AddrPort }

// Note remembers a close that the system completes.
func (f *Flusher) Note(laddr, raddr netip.AddrPort) { f.recent.note(tuple{laddr, raddr}, time.Now()) }

// Forget forgets a close, because its 4-tuple has a new connection.
func (f *Flusher) Forget(laddr, raddr netip.AddrPort) { f.recent.forget(tuple{laddr, raddr}) }

func (r *recent) note(t tuple, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at == nil {
		r.at = make(map[tuple]time.Time)
	}
	for len(r.order) > 0 && (len(r.order) >= maxRecent || now.Sub(r.at[r.order[0]]) >= redialWait) {
		delete(r.at, r.order[0])
		r.order = r.order[1:]
	}
	r.at[t] = now
	r.order = append(r.order, t)
	r.count.Store(int32(len(r.at)))
}

func (r *recent) forget(t tuple) {
	if r.count.Load() == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.at, t)
	r.count.Store(int32(len(r.at)))
}

// has reports whether the 4-tuple was closed within redialWait.
func (r *recent) has(t tuple, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.at[t]
	return ok && now.Sub(at) < redialWait
}

// hasPort reports whether a close with this local port and peer is remembered.
func (r *recent) hasPort(port uint16, raddr netip.AddrPort) bool {
	if r.count.Load() == 0 {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for t := range r.at {
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
