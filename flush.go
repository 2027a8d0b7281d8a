package reuseport

import (
	"errors"
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
// for the system calls of others, unless its peer has reset or too many are pending.
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
	hold         *hold // not nil: fd is package net's, and kept open
	frees        bool  // a reset shall free the 4-tuple in the end
	local        bool  // on loopback, where nothing is lost or overtaken

	progress  flushProgress
	due       time.Time // of the next look
	discarded int
	look      look // the last one
	over      bool // it has ended; guarded by mu
}

// add takes over a connection that is off the user's hands: linger off, so that the
// end of the process delivers, then the FIN.
func (f *flusher) add(c *closing) {
	if isGone(errors.Join(setLinger(c.fd, false), shutdownWrite(c.fd))) {
		f.bury(c)
		return
	}
	c.due = time.Now().Add(firstLook) // nothing is acknowledged yet
	for !f.enter(c) {
		f.evict()
	}
}

// bury ends a connection that the peer has reset before it was entered. A last look
// tells what did not make it.
func (f *flusher) bury(c *closing) {
	f.looks.Lock()
	defer f.looks.Unlock()
	c.look.broken = true
	f.step(c, time.Now())
}

// enter makes a connection one of the pending. It returns false if they are too many.
func (f *flusher) enter(c *closing) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.pending) >= maxPendingCloses {
		f.forget() // those that a sweep under way has ended
	}
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
		f.step(c, now)
	}
	clear(f.batch)
	return f.settle()
}

// collect puts into batch what is due. The caller holds looks.
func (f *flusher) collect(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget()
	f.batch = f.batch[:0]
	for _, c := range f.pending {
		if !c.due.After(now) {
			f.batch = append(f.batch, c)
		}
	}
}

// forget takes out what is over. The caller holds mu.
func (f *flusher) forget() {
	f.pending = slices.DeleteFunc(f.pending, func(c *closing) bool { return c.over })
}

// settle forgets what is over and returns what sweep does. The caller holds looks.
func (f *flusher) settle() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget()
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
func (f *flusher) step(c *closing, now time.Time) bool {
	c.look = f.look(c)
	v := c.progress.next(now, c.look)
	if v == keep {
		c.due = now.Add(c.progress.wait)
		return false
	}
	f.end(c, v)
	return true
}

// peek is a look that decides nothing. What it hears the next decision has to know.
func (f *flusher) peek(c *closing) {
	c.look = f.look(c)
	if c.look.received > 0 {
		c.progress.heard = time.Now()
	}
}

// look discards what has come in and asks what is outstanding. An end that an earlier
// look has seen, and thereby taken off the socket, stays.
func (f *flusher) look(c *closing) look {
	l := f.drain(c)
	l.ended, l.broken = l.ended || c.look.ended, l.broken || c.look.broken
	n, err := unacked(c.fd)
	switch {
	case err != nil:
		l.unacked = unknownUnacked
	case n == 0 || n <= finUnacked && c.local && finSent(c.fd):
		l.unacked = 0 // or the FIN arrives
	case l.ended || c.discarded >= maxDiscard:
		// A reset after the peer's FIN does not show on reading (Linux), and none
		// does where nothing is read any more.
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
	if c.hold != nil {
		c.hold.release()
		return
	}
	_ = closeSocketFD(c.fd)
}

// count books an end.
func (f *flusher) count(c *closing, v verdict) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c.over, f.ended = true, time.Now()
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
	if c.look.unacked != 0 {
		f.peek(c)
	}
	f.end(c, c.look.cut())
}

// oldest returns the one to evict, or nil if there is room: a sweep may have made some
// while the caller waited for looks, which it holds.
func (f *flusher) oldest() *closing {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget()
	if len(f.pending) < maxPendingCloses {
		return nil
	}
	i := slices.IndexFunc(f.pending, func(c *closing) bool { return c.look.unacked == 0 })
	return f.pending[max(i, 0)]
}
