package reuseport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// flusher looks after the connections of a Transport that were closed and are not
// yet delivered. One goroutine and one timer serve them all, and only as long as
// there are any. A look costs two system calls; looking is chosen over waiting for
// events because a descriptor of package net cannot be waited for a second time.
//
// Of the two locks looks comes first. Close takes mu alone, so that it does not wait
// for the system calls of others.
type flusher struct {
	looks sync.Mutex // held by whoever looks at pending connections, or ends them
	buf   []byte     // for what is discarded
	batch []*closing // that are due

	mu      sync.Mutex    // held for no system call
	pending []*closing    // oldest first
	idle    chan struct{} // closed when the last one has gone; nil while there is none
	wake    chan struct{} // tells the goroutine of a look before next
	next    time.Time
	counts  flushCounts
	ended   time.Time // when the last one went
}

// flushCounts are the sources of Stats.
type flushCounts struct {
	aborted, reset uint64
	cut            uint64 // those of both that had data outstanding, and not the FIN alone
	bytes          uint64 // not acknowledged, of both
}

// closing is a connection that was closed and is not yet delivered.
type closing struct {
	laddr, raddr netip.AddrPort
	fd           uintptr
	held         chan struct{} // not nil: fd is package net's, which closes it after held is closed
	frees        bool          // a reset shall free the 4-tuple in the end
	local        bool          // on loopback, where nothing is lost or overtaken

	progress  flushProgress
	due       time.Time // of the next look
	discarded int
	look      look // the last one
	over      bool // it has ended
}

// add takes over a connection that is off the user's hands: linger off, so that the
// end of the process delivers, then the FIN.
func (f *flusher) add(c *closing) {
	gone := isGone(errors.Join(setLinger(c.fd, false), shutdownWrite(c.fd)))
	if gone && f.bury(c) {
		return
	}
	c.due = time.Now().Add(firstLook) // nothing is acknowledged yet
	for !f.enter(c) {
		f.evict()
	}
}

// bury looks at a connection that the peer has reset before it was entered.
func (f *flusher) bury(c *closing) bool {
	f.looks.Lock()
	defer f.looks.Unlock()
	return f.step(c, time.Now(), true)
}

// enter makes a connection one of the pending. It returns false if they are too many.
func (f *flusher) enter(c *closing) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.pending) >= maxPendingCloses {
		return false
	}
	f.pending = append(f.pending, c)
	if f.idle == nil {
		f.idle, f.wake, f.next = make(chan struct{}), make(chan struct{}, 1), c.due
		go f.run(f.wake)
		return true
	}
	if c.due.Before(f.next) {
		f.next = c.due
		select {
		case f.wake <- struct{}{}:
		default: // it is awake already
		}
	}
	return true
}

// run looks at the pending connections when they are due, until there are none.
func (f *flusher) run(wake <-chan struct{}) {
	timer := time.NewTimer(firstLook)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-wake:
		}
		wait := f.sweep(time.Now())
		if wait < 0 {
			return
		}
		timer.Reset(wait)
	}
}

// sweep looks at all that are due. It returns after what time to come again, or a
// negative one if nothing is pending any more.
func (f *flusher) sweep(now time.Time) time.Duration {
	f.looks.Lock()
	defer f.looks.Unlock()
	f.collect(now)
	for _, c := range f.batch {
		c.over = f.step(c, now, false)
	}
	clear(f.batch)
	return f.settle()
}

// collect puts into batch what is due. The caller holds looks.
func (f *flusher) collect(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.batch = f.batch[:0]
	for _, c := range f.pending {
		if !c.due.After(now) {
			f.batch = append(f.batch, c)
		}
	}
}

// settle forgets what is over and returns what sweep does. The caller holds looks.
func (f *flusher) settle() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = slices.DeleteFunc(f.pending, func(c *closing) bool { return c.over })
	if len(f.pending) == 0 {
		f.pending = nil
		close(f.idle)
		f.idle = nil
		return -1
	}
	soonest := slices.MinFunc(f.pending, func(a, b *closing) int { return a.due.Compare(b.due) })
	f.next = soonest.due
	return max(0, time.Until(f.next))
}

// step looks at one connection and acts. It returns true if that was its end. The
// caller holds looks.
func (f *flusher) step(c *closing, now time.Time, gone bool) bool {
	c.look = f.look(c)
	c.look.broken = c.look.broken || gone
	v := c.progress.next(now, c.look)
	if v == keep {
		c.due = now.Add(c.progress.wait)
		return false
	}
	f.end(c, v)
	return true
}

// look discards what has come in and asks what is outstanding.
func (f *flusher) look(c *closing) look {
	l := f.drain(c)
	n, err := unacked(c.fd)
	switch {
	case err != nil:
		l.unacked = unknownUnacked
	case n == 0 || n <= finUnacked && c.local && finSent(c.fd):
		l.unacked = 0 // or the FIN arrives
	case l.ended && n > 0:
		// A reset after the peer's FIN does not show on reading (Linux).
		l.unacked, l.broken = n, l.broken || isGone(shutdownWrite(c.fd))
	default:
		l.unacked = n
	}
	return l
}

// drain discards up to 16 buffers full, so that one connection does not keep the
// others waiting. A peer that has sent maxDiscard finds its window shut.
func (f *flusher) drain(c *closing) look {
	var l look
	if f.buf == nil {
		f.buf = make([]byte, 64<<10)
	}
	for range 16 {
		if c.discarded >= maxDiscard {
			break
		}
		n, err := discard(c.fd, f.buf)
		l.received += n
		c.discarded += n
		l.ended = err == io.EOF
		l.broken = err != nil && err != io.EOF
		if n == 0 || err != nil {
			break
		}
	}
	return l
}

// end gives the socket up in the way that v says. The caller holds looks.
func (f *flusher) end(c *closing, v verdict) {
	f.count(c, v)
	// Neither error has a taker: the user's Close has returned, and both mean that
	// the socket is gone already. After the peer's reset nothing is left to free.
	if v == abort || v == release && c.frees && !c.look.broken {
		_ = setLinger(c.fd, true)
	}
	if c.held != nil {
		close(c.held)
		return
	}
	_ = closeSocketFD(c.fd)
}

// count books an end.
func (f *flusher) count(c *closing, v verdict) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = time.Now()
	switch v {
	case abort:
		f.counts.aborted++
	case lost:
		f.counts.reset++
	default:
		return
	}
	f.counts.bytes += uint64(c.look.outstanding())
	if c.look.holdsData() {
		f.counts.cut++
	}
}

// outstanding returns how many bytes the peer has not acknowledged.
func (l look) outstanding() int { return max(0, l.unacked-finUnacked) }

// holdsData says whether data is outstanding, or may be where the system does not
// tell. A peer that resets when it has read our end loses nothing.
func (l look) holdsData() bool { return l.unacked == unknownUnacked || l.outstanding() > 0 }

// evict makes room for one: the oldest whose data has all arrived, or else the oldest.
func (f *flusher) evict() {
	f.looks.Lock()
	defer f.looks.Unlock()
	c := f.oldest()
	if c == nil {
		return
	}
	v := release
	if c.look.unacked != 0 {
		if c.look = f.look(c); c.look.unacked != 0 {
			v = abort
		}
	}
	f.end(c, v)
	f.drop(c)
}

// oldest returns the one to evict, or nil if none is pending. The caller holds looks.
func (f *flusher) oldest() *closing {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.pending) == 0 {
		return nil
	}
	i := slices.IndexFunc(f.pending, func(c *closing) bool { return c.look.unacked == 0 })
	return f.pending[max(i, 0)]
}

// drop forgets one that has ended. The goroutine sees it when it comes again.
func (f *flusher) drop(c *closing) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = slices.DeleteFunc(f.pending, func(p *closing) bool { return p == c })
}

// redialWait is how long a dial waits for a close of ours that holds its 4-tuple:
// a round trip, a delayed acknowledgement, and a segment that has to be sent again.
const redialWait = time.Second

// free frees a 4-tuple that a pending close holds, as soon as all is delivered: a
// dial need not wait for the peer's end. It returns false if it is not one of
// ours, or not delivered within redialWait. One that ended since the dial began is
// not found any more: whatever ended within redialWait may have been it, and one
// more bind and connect sends nothing if it was not.
func (f *flusher) free(ctx context.Context, laddr, raddr netip.AddrPort) bool {
	end := time.Now().Add(redialWait)
	for wait := soonLook; ; wait = min(2*wait, lastLook/4) {
		switch found, freed, recent := f.tryFree(laddr, raddr); {
		case freed:
			return true
		case !found:
			return recent
		case time.Now().After(end):
			return false
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return false
		}
	}
}

// tryFree looks at a pending close now, and ends it if all is delivered.
func (f *flusher) tryFree(laddr, raddr netip.AddrPort) (found, freed, recent bool) {
	f.looks.Lock()
	defer f.looks.Unlock()
	c, recent := f.holder(laddr, raddr)
	if c == nil {
		return false, false, recent
	}
	if !f.step(c, time.Now(), false) {
		if c.look.unacked != 0 {
			return true, false, false
		}
		f.end(c, release)
	}
	f.drop(c)
	return true, true, true
}

// holder returns the pending close that holds a 4-tuple, or nil, and whether one has
// ended lately. The caller holds looks.
func (f *flusher) holder(laddr, raddr netip.AddrPort) (c *closing, recent bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.IndexFunc(f.pending, func(c *closing) bool { return c.holds(laddr, raddr) })
	if i < 0 {
		return nil, time.Since(f.ended) < redialWait
	}
	return f.pending[i], false
}

// holds says whether a dial from laddr, which may be unspecified, would have the
// 4-tuple of c.
func (c *closing) holds(laddr, raddr netip.AddrPort) bool {
	return c.raddr == raddr && c.laddr.Port() == laddr.Port() &&
		(c.laddr == laddr || laddr.Addr().IsUnspecified())
}

// UndeliveredError says what pending closes did not deliver when Shutdown returned.
// It unwraps to the error of the context, if that ended the wait.
type UndeliveredError struct {
	Conns int   // connections with data that the peer has not acknowledged
	Bytes int64 // bytes of theirs; where the system does not tell, they are not in it

	err error
}

func (e *UndeliveredError) Error() string {
	s := fmt.Sprintf("reuseport: %d connections closed with %d bytes undelivered", e.Conns, e.Bytes)
	if e.err != nil {
		s += ": " + e.err.Error()
	}
	return s
}

// Unwrap returns context.Canceled, context.DeadlineExceeded, or nil.
func (e *UndeliveredError) Unwrap() error { return e.err }

// await waits until nothing is pending or ctx ends, and returns an
// *UndeliveredError if something did not make it.
func (f *flusher) await(ctx context.Context) error {
	before := f.undelivered(false)
	err := f.awaitIdle(ctx)
	after := f.undelivered(err != nil)
	e := &UndeliveredError{Conns: after.Conns - before.Conns, Bytes: after.Bytes - before.Bytes, err: err}
	if e.Conns == 0 {
		return nil // what may be pending waits for the peers' ends only
	}
	return e
}

// awaitIdle waits until nothing is pending.
func (f *flusher) awaitIdle(ctx context.Context) error {
	for {
		f.mu.Lock()
		idle := f.idle
		f.mu.Unlock()
		if idle == nil {
			return nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// undelivered sums up what was cut so far, and on demand what is pending.
func (f *flusher) undelivered(pending bool) UndeliveredError {
	f.looks.Lock()
	defer f.looks.Unlock()
	e, all := f.cut()
	if !pending {
		return e
	}
	for _, c := range all {
		if c.look = f.look(c); c.look.holdsData() {
			e.Conns++
			e.Bytes += int64(c.look.outstanding())
		}
	}
	return e
}

// cut returns what was cut so far, and what is pending. The caller holds looks.
func (f *flusher) cut() (UndeliveredError, []*closing) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return UndeliveredError{Conns: int(f.counts.cut), Bytes: int64(f.counts.bytes)}, slices.Clone(f.pending)
}
