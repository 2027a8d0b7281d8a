package flush

import (
	"context"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/reusetransport/reuseport/internal/netaddr"
)

// redialWait is how long a dial waits for a 4-tuple that we closed. It leaves time for a round
// trip, a delayed acknowledgement, and a segment that has to be sent again.
const redialWait = time.Second

// settledWait is how long a dial waits where waiting does not help: the connection is gone, or
// in TIME_WAIT. The dial may have met the connection just before that.
const settledWait = 50 * time.Millisecond

// recent remembers for a while the 4-tuples of closes that were left to the system. A dial that
// finds such a 4-tuple taken tries again. It takes no lock, because servers close thousands of
// connections a second. Two closes that want the same slot push each other out; the redial of
// the loser then uses another port.
type recent struct{ table atomic.Pointer[recentTable] }

type recentTable struct {
	start time.Time
	slots [1 << recentBits]atomic.Uint64 // each the tag of a close, and until when it is remembered
}

const (
	recentBits = 12              // of the hash, they choose the slot
	tagBits    = 22              // of the hash, they tell closes apart
	timeBits   = 64 - tagBits    // milliseconds since the start of the table
	timeMask   = 1<<timeBits - 1 // 139 years
)

type tuple struct{ laddr, raddr netip.AddrPort }

// slot returns the place of a close and its tag there. The local address has no part in it, but
// for the port, so that a dial need not know from which one it would leave.
func (t *recentTable) slot(port uint16, raddr netip.AddrPort) (slot *atomic.Uint64, tag uint64) {
	h := netaddr.Hash(port, raddr)
	return &t.slots[h>>(64-recentBits)], h << timeBits
}

// Note remembers a close that the system completes.
func (f *Flusher) Note(laddr, raddr netip.AddrPort) {
	f.recent.note(tuple{laddr, raddr}, time.Now(), redialWait)
}

// noteEnd is Note for a connection that the Flusher ends.
func (f *Flusher) noteEnd(c *Closing, s status) {
	f.recent.note(tuple{c.Laddr, c.Raddr}, time.Now(), s.redialWait())
}

// redialWait returns how long a dial may wait for the 4-tuple of a connection that ends so.
func (s status) redialWait() time.Duration {
	if s.broken || s.finished && s.unacked == 0 {
		return settledWait
	}
	return redialWait
}

// Forget forgets a close, because its 4-tuple has a new connection.
func (f *Flusher) Forget(laddr, raddr netip.AddrPort) { f.recent.forget(tuple{laddr, raddr}) }

func (r *recent) note(t tuple, now time.Time, wait time.Duration) {
	table := r.table.Load()
	if table == nil {
		r.table.CompareAndSwap(nil, &recentTable{start: now})
		table = r.table.Load()
	}
	slot, tag := table.slot(t.laddr.Port(), t.raddr)
	slot.Store(tag | table.stamp(now.Add(wait)))
}

// stamp returns a time as it stands in a slot.
func (t *recentTable) stamp(at time.Time) uint64 {
	return uint64(max(0, at.Sub(t.start).Milliseconds())) & timeMask
}

func (r *recent) forget(t tuple) {
	table := r.table.Load()
	if table == nil {
		return
	}
	slot, tag := table.slot(t.laddr.Port(), t.raddr)
	if v := slot.Load(); v&^timeMask == tag {
		slot.CompareAndSwap(v, 0)
	}
}

// has reports whether the 4-tuple of a close with this local port and peer may still be in the
// way.
func (r *recent) has(port uint16, raddr netip.AddrPort, now time.Time) bool {
	table := r.table.Load()
	if table == nil {
		return false
	}
	slot, tag := table.slot(port, raddr)
	v := slot.Load()
	return v&^timeMask == tag && v&timeMask > table.stamp(now)
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
