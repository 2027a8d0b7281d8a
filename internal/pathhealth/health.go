package pathhealth

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Health is what a Transport knows of its paths. The zero value is ready. All methods are
// safe for concurrent use. On a healthy path at most one dial per source per second takes
// the lock.
type Health struct {
	mu    sync.Mutex
	paths *paths // nil until first used

	faulty atomic.Bool // some path is blocked or has silent hosts

	// fresh has the time at which each source's last handshake was recorded. The map is
	// replaced and never changed, so that it can be read without the lock.
	fresh atomic.Pointer[map[netip.AddrPort]time.Time]
}

// freshFor is how long after a recorded handshake the next ones of its path need not be
// recorded. So the last handshake may be that much younger than its record.
const freshFor = time.Second

// NeedsSource reports whether a dial from laddr has to know its source address before it
// starts.
func (h *Health) NeedsSource(laddr netip.AddrPort) bool {
	if !h.faulty.Load() {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.known().needsSource(laddr.Port(), laddr.Addr())
}

// BeginDial decides how a dial of raddr leaves from the listening port source. If the dial
// becomes the probe that is due, that probe is used up. hedgeDelay is
// Transport.HedgeDelay.
func (h *Health) BeginDial(source netip.AddrPort, raddr netip.Addr, hedgeDelay time.Duration) Plan {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.known().beginDial(source, raddr, hedgeDelay, time.Now())
}

// BeginHedge decides whether the hedge of a dial starts now, and takes its share of the
// budget.
func (h *Health) BeginHedge(source netip.AddrPort, raddr netip.Addr) HedgeAnswer {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.known().beginHedge(source, raddr, time.Now())
}

// RecordHandshake records a handshake from the listening port source with raddr. It
// reports whether that ends a block.
func (h *Health) RecordHandshake(source netip.AddrPort, raddr netip.Addr) (recovered bool) {
	now := time.Now()
	if h.isFresh(source, now) {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	recovered = h.known().recordHandshake(source, raddr, now)
	h.freshen(source, now)
	h.faulty.Store(h.known().faulty())
	return recovered
}

// RecordHedgeWin records that raddr answered a hedge while the SYN from the listening port
// source was unanswered. It reports whether that blocks the path.
func (h *Health) RecordHedgeWin(source netip.AddrPort, raddr netip.Addr) (blocked bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	blocked = h.known().recordHedgeWin(source, raddr, time.Now())
	h.faulty.Store(h.known().faulty())
	return blocked
}

// Paths returns what is known of all paths, ordered by source.
func (h *Health) Paths() []Path {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.known().list(time.Now())
	slices.SortFunc(all, func(a, b Path) int { return a.Source.Compare(b.Source) })
	return all
}

// known returns the paths, and makes them first if need be. The caller holds mu.
func (h *Health) known() *paths {
	if h.paths == nil {
		h.paths = newPaths()
	}
	return h.paths
}

// isFresh reports whether a handshake from source need not be recorded.
func (h *Health) isFresh(source netip.AddrPort, now time.Time) bool {
	fresh := h.fresh.Load()
	return fresh != nil && now.Sub((*fresh)[source]) < freshFor && !h.faulty.Load()
}

// freshen publishes that a handshake from source was recorded. The caller holds mu.
func (h *Health) freshen(source netip.AddrPort, now time.Time) {
	next := map[netip.AddrPort]time.Time{source: now}
	if fresh := h.fresh.Load(); fresh != nil {
		for s, at := range *fresh {
			if s != source && now.Sub(at) < freshFor {
				next[s] = at
			}
		}
	}
	h.fresh.Store(&next)
}
