package pathhealth

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Health is what a Transport knows of its paths. The zero value is ready. All methods are
// safe for concurrent use. On a healthy path at most one dial per path and second takes
// the lock.
type Health struct {
	mu    sync.Mutex
	paths *paths // nil until first used

	faulty atomic.Bool // something speaks against a path, a host or a network

	// fresh has the time at which each path's last handshake was recorded. The map is
	// replaced and never changed, so that it can be read without the lock.
	fresh atomic.Pointer[map[pathKey]time.Time]
}

// freshFor is how long after a recorded handshake the next ones of its path need not be
// recorded. So the last handshake may be that much younger than its record.
const freshFor = time.Second

// NeedsSource reports whether a dial has to know its source address before it starts.
// Without that its plan is that of Timing.Fresh.
func (h *Health) NeedsSource() bool { return h.faulty.Load() }

// BeginDial decides how a dial leaves. If the dial becomes the probe that is due, that probe
// is used up.
func (h *Health) BeginDial(to Target, in Timing) Plan {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.known().beginDial(to, in, time.Now())
}

// BeginHedge decides whether the hedge of a dial starts early, now, and takes its share of
// the budget.
func (h *Health) BeginHedge(to Target) HedgeAnswer {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.known().beginHedge(to, time.Now())
}

// RecordHandshake records a handshake from the listening port. It reports whether that ends
// a block.
func (h *Health) RecordHandshake(to Target) (recovered bool) {
	now := time.Now()
	if h.isFresh(to.path(), now) {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	recovered = h.known().recordHandshake(to, now)
	h.freshen(to.path(), now)
	h.faulty.Store(h.known().isFaulty(now))
	return recovered
}

// A Win is a hedge that was answered.
type Win struct {
	Early  bool // it took a share of the budget, which it gives back
	Strong bool // the listening port's SYNs had time enough for an answer
}

// RecordHedgeWin records that the host answered a hedge while the SYNs from the listening port
// were unanswered. It reports whether that blocks the path.
func (h *Health) RecordHedgeWin(to Target, win Win) (blocked bool) {
	h.record(func(ps *paths, now time.Time) {
		if win.Early {
			ps.giveBack()
		}
		blocked = ps.recordHedgeWin(to, win.Strong, now)
	})
	return blocked
}

// RecordTimeout records that a dial from the listening port ran out of time, with no hedge.
func (h *Health) RecordTimeout(to Target) {
	h.record(func(ps *paths, now time.Time) { ps.recordTimeout(to, now) })
}

// RecordSilence records that neither the listening port nor a hedge was answered.
func (h *Health) RecordSilence(to Target) {
	h.record(func(ps *paths, now time.Time) { ps.recordSilence(to, now) })
}

// RecordRefusal records that a dial from the listening port was refused. It reports whether the
// dial is worth a try from an ephemeral port, for which it takes a share of the budget.
func (h *Health) RecordRefusal(to Target) (retry bool) {
	h.record(func(ps *paths, now time.Time) { retry = ps.recordRefusal(to, now) })
	return retry
}

// RecordRetryWin records that the host refused the listening port and answered an ephemeral
// one. It reports whether that blocks the path.
func (h *Health) RecordRetryWin(to Target) (blocked bool) {
	h.record(func(ps *paths, now time.Time) { blocked = ps.recordRetryWin(to, now) })
	return blocked
}

// record changes what is known.
func (h *Health) record(change func(*paths, time.Time)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	change(h.known(), now)
	h.faulty.Store(h.known().isFaulty(now))
}

// Paths returns what is known of all paths, ordered by source and distance.
func (h *Health) Paths() []Path {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.known().list(time.Now())
	slices.SortFunc(all, func(a, b Path) int {
		return cmp.Or(a.Source.Compare(b.Source), cmp.Compare(a.Distance, b.Distance))
	})
	return all
}

// known returns the paths, and makes them first if need be. The caller holds mu.
func (h *Health) known() *paths {
	if h.paths == nil {
		h.paths = newPaths()
	}
	return h.paths
}

// isFresh reports whether a handshake of a path need not be recorded.
func (h *Health) isFresh(key pathKey, now time.Time) bool {
	fresh := h.fresh.Load()
	return fresh != nil && now.Sub((*fresh)[key]) < freshFor && !h.faulty.Load()
}

// freshen publishes that a handshake of a path was recorded. The caller holds mu.
func (h *Health) freshen(key pathKey, now time.Time) {
	next := map[pathKey]time.Time{key: now}
	if fresh := h.fresh.Load(); fresh != nil {
		for k, at := range *fresh {
			if k != key && now.Sub(at) < freshFor {
				next[k] = at
			}
		}
	}
	h.fresh.Store(&next)
}
