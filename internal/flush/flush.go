// Package flush looks after connections that were closed. A [Flusher] keeps a second
// descriptor of each, discards what its peer still sends, so that no reset answers it, and
// frees the 4-tuple for a dial that needs it. When the peer has everything and has ended
// too, or has had time to read, or when patience or room ends, it closes the descriptor,
// and the system goes on as after package net's close. It never resets a connection that a
// dial does not need.
//
// decide.go has the decisions, which are pure; inspect.go finds out what they need; the rest
// acts on them.
package flush

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/reusetransport/reuseport/internal/errno"
	"github.com/reusetransport/reuseport/internal/sockopt"
)

// A Flusher looks after the closed connections of one Transport. The zero value is ready.
// All methods are safe for concurrent use. A timer serves all connections, and no goroutine
// waits: the Flusher inspects at intervals instead of waiting for events, because an
// acknowledgement raises no readiness event.
//
// mu is held for no system call on a connection, only for getrlimit. Whoever works on a
// connection claims it under mu first; everybody else then leaves it alone.
type Flusher struct {
	mu      sync.Mutex
	pending []*Closing  // oldest first
	timer   *time.Timer // of the next sweep; nil before the first close
	armed   bool        // the timer will fire, or a sweep runs
	next    time.Time   // when; zero while a sweep runs
	limit   int         // the user's bound on len(pending); zero is none
	room    int         // how many may be pending; zero before the first close
	highest uintptr     // no descriptor above this one is kept; meaningless while room is zero
	counts  Counts

	latencies Latencies

	recent  recent    // closes that the system completes
	buffers sync.Pool // of *[]byte, for what is discarded
}

// Counts is what a Flusher has counted.
type Counts struct {
	Pending     int    // connections with data or the FIN outstanding
	Left        uint64 // left to the system with data or the FIN outstanding
	Reset       uint64 // ended by the peer or the network with data or the FIN outstanding
	Undelivered uint64 // those of Left and Reset that had data outstanding, not only the FIN
	Bytes       uint64 // bytes outstanding in those of Left and Reset
}

// A Closing is a connection that was closed. Its exported fields are set before Add.
type Closing struct {
	Laddr, Raddr netip.AddrPort
	FD           uintptr       // the Flusher's own
	FreeTuple    bool          // a dial that needs the 4-tuple may reset the connection
	Loopback     bool          // the peer is on loopback, where what was sent has arrived
	Stall        time.Duration // Transport.FlushTimeout

	progress  progress
	inspected time.Time // when it was last inspected
	due       time.Time // of the next inspection
	discarded int
	closed    time.Time // when Add was called
	timed     bool      // Latencies.Delivered has it
	heard     time.Time // when the peer last sent or acknowledged something
	status    status    // the last one
	claimed   bool      // somebody works on it, or has ended it; guarded by Flusher.mu
}

// Counts returns the counters. It first inspects connections that were never inspected, so
// that one with nothing outstanding does not count as pending.
func (f *Flusher) Counts() Counts {
	f.stepAll(func(c *Closing) bool { return c.inspected.IsZero() })
	f.mu.Lock()
	defer f.mu.Unlock()
	counts := f.counts
	for _, c := range f.pending {
		if c.status.unacked != 0 {
			counts.Pending++
		}
	}
	return counts
}

// Limit bounds how many connections may be pending, below the Flusher's own bounds.
func (f *Flusher) Limit(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.limit = max(1, n)
	f.measureRoom()
}

// Add takes over a closed connection and sends the FIN. Where the system denies shutdown,
// close(2) is what sends the FIN, and nothing is kept.
func (f *Flusher) Add(c *Closing) {
	now := time.Now()
	c.closed, c.heard, c.due = now, now, now.Add(firstWait)
	c.progress, c.status.unacked = newProgress(now, c.Stall), unknown
	err := sockopt.ShutdownWrite(c.FD)
	if err != nil && !errno.IsNotConnected(err) {
		_ = sockopt.Close(c.FD) // the user's Close has returned, so the error has no taker
		return
	}
	evicted := f.enter(c)
	if err != nil { // the peer has reset: count what did not make it
		f.inspectNow(c)
	}
	f.leave(evicted)
}

// leave gives claimed connections up to the system, after a last inspection for the counts.
func (f *Flusher) leave(evicted []*Closing) {
	for _, c := range evicted {
		s := f.inspect(c, time.Now())
		f.end(c, s, s.whenEvicted())
	}
}

// enter adds a connection to the pending ones. It claims and returns those that have to make
// room for it.
func (f *Flusher) enter(c *Closing) (evicted []*Closing) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.room == 0 {
		f.measureRoom()
	}
	if surplus := len(f.pending) - f.room + 1; surplus > 0 {
		evicted = f.claimOldest(surplus)
	}
	f.pending = append(f.pending, c)
	f.arm(c.due)
	return evicted
}

// inspectNow inspects a connection, unless somebody else works on it.
func (f *Flusher) inspectNow(c *Closing) {
	f.mu.Lock()
	claimed := f.claim(c)
	f.mu.Unlock()
	if claimed {
		f.step(c)
	}
}

// Dup returns a second descriptor of a connection that is being closed, for Add. It reports
// false if descriptors are short: the process has none, even after GiveUp, or few are left.
func (f *Flusher) Dup(fd uintptr) (uintptr, bool) {
	dup, err := sockopt.Dup(fd)
	if errno.IsOutOfResources(err) && f.GiveUp() > 0 {
		dup, err = sockopt.Dup(fd)
	}
	if err != nil {
		return 0, false
	}
	if f.isHigh(dup) {
		_ = sockopt.Close(dup) // a duplicate, which nothing was written to
		return 0, false
	}
	return dup, true
}

// isHigh reports whether a new descriptor shows that few are left: a system gives the lowest
// number that is free. Room alone does not bound the closes of a process with many Transports.
func (f *Flusher) isHigh(fd uintptr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.room == 0 {
		f.measureRoom()
	}
	return fd > f.highest
}

// GiveUp leaves the oldest half of the pending connections to the system, because
// descriptors are short. It returns how many descriptors that freed. Where others work on
// all that are pending, it waits a moment until those are to be had, or freed by the others.
func (f *Flusher) GiveUp() int {
	oldest, before := f.claimHalf()
	pending := before
	for try := 0; len(oldest) == 0 && 0 < pending && pending == before && try < giveUpTries; try++ {
		time.Sleep(shortWait)
		oldest, pending = f.claimHalf()
	}
	f.leave(oldest)
	return len(oldest) + max(0, before-pending)
}

// giveUpTries bounds the wait of GiveUp.
const giveUpTries = 16

// claimHalf claims the oldest half of the pending connections. It also returns how many are
// pending.
func (f *Flusher) claimHalf() (oldest []*Closing, pending int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.claimOldest(max(len(f.pending)/2, minGivenUp)), len(f.pending)
}

// minGivenUp is the least number of connections that GiveUp leaves to the system, if there are
// so many.
const minGivenUp = 16

// claim claims a connection for the caller. It reports false if somebody else has it. The
// caller holds mu.
func (f *Flusher) claim(c *Closing) bool {
	if c.claimed {
		return false
	}
	c.claimed = true
	return true
}

// claimOldest claims up to n connections, oldest first. The caller holds mu.
func (f *Flusher) claimOldest(n int) (oldest []*Closing) {
	return f.claimSome(n, func(*Closing) bool { return true })
}

// claimSome claims up to n of the connections for which wanted reports true, oldest first.
// The caller holds mu.
func (f *Flusher) claimSome(n int, wanted func(*Closing) bool) (some []*Closing) {
	for _, c := range f.pending {
		if len(some) == n {
			break
		}
		if wanted(c) && f.claim(c) {
			some = append(some, c)
		}
	}
	return some
}

// arm makes the timer fire no later than due. The caller holds mu.
func (f *Flusher) arm(due time.Time) {
	if f.armed && !due.Before(f.next) {
		return
	}
	f.armed, f.next = true, due
	wait := max(0, time.Until(due))
	if f.timer == nil {
		f.timer = time.AfterFunc(wait, f.sweep)
		return
	}
	f.timer.Reset(wait)
}

// sweep inspects all connections that are due, and arms the timer for the next one.
func (f *Flusher) sweep() {
	f.mu.Lock()
	f.next = time.Time{} // nothing is due before it, so no second sweep begins beside this one
	f.mu.Unlock()
	now := time.Now()
	f.stepAll(func(c *Closing) bool { return !c.due.After(now) })
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = false
	f.measureRoom() // the limit of descriptors may have changed
	if len(f.pending) == 0 {
		f.pending = nil
		return
	}
	f.armForSoonest()
}

// armForSoonest makes the timer fire for the next connection that is due. Whoever has claimed
// one arms the timer for it himself. The caller holds mu.
func (f *Flusher) armForSoonest() {
	var soonest *Closing
	for _, c := range f.pending {
		if !c.claimed && (soonest == nil || c.due.Before(soonest.due)) {
			soonest = c
		}
	}
	if soonest != nil {
		f.arm(soonest.due)
	}
}

// stepAll inspects all connections that wanted wants, which is called with mu held. It claims
// one at a time, and leaves the others to a dial or a GiveUp that needs them meanwhile.
func (f *Flusher) stepAll(wanted func(*Closing) bool) {
	var some []*Closing
	f.mu.Lock()
	for _, c := range f.pending {
		if wanted(c) {
			some = append(some, c)
		}
	}
	f.mu.Unlock()
	for _, c := range some {
		f.inspectNow(c)
	}
}

// step inspects a claimed connection, and ends it or sets the time of the next inspection.
func (f *Flusher) step(c *Closing) {
	now := time.Now()
	s := f.inspect(c, now)
	v := c.progress.next(now, s)
	if v != keep {
		f.end(c, s, v)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c.status, c.inspected, c.due, c.claimed = s, now, now.Add(c.progress.wait), false
	f.arm(c.due)
}

// end closes the descriptor of a claimed connection and then takes the connection off the
// list. The order matters: a dial that finds none listed must find the 4-tuple free.
func (f *Flusher) end(c *Closing, s status, v verdict) {
	f.noteEnd(c, s)
	f.noteLatency(c, v)
	_ = sockopt.Close(c.FD) // the user's Close has returned, so the error has no taker
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = slices.DeleteFunc(f.pending, func(other *Closing) bool { return other == c })
	switch v {
	case left:
		f.counts.Left++
	case lost:
		f.counts.Reset++
	default:
		return
	}
	f.counts.Bytes += uint64(s.outstanding(sockopt.FINUnacked))
	if s.holdsData(sockopt.FINUnacked) {
		f.counts.Undelivered++
	}
}

// maxRoom bounds how many connections may be pending. They may also take no more than one
// descriptor in perDescriptors of the limit (RLIMIT_NOFILE), and leave as many alone.
const (
	maxRoom        = 4096
	perDescriptors = 8
)

// measureRoom finds out how many connections may be pending. The caller holds mu.
func (f *Flusher) measureRoom() {
	f.room, f.highest = maxRoom, ^uintptr(0)
	if limit, err := sockopt.DescriptorLimit(); err == nil {
		share := limit / perDescriptors
		f.room, f.highest = int(min(maxRoom, max(1, share))), uintptr(limit-share)
	}
	if f.limit > 0 {
		f.room = min(f.room, f.limit)
	}
}
