// Package flush looks after connections that were closed and are not yet delivered. A
// [Flusher] keeps each one's descriptor, discards what its peer still sends, and lets it
// go when the peer has acknowledged everything.
//
// decide.go has the decisions, which are pure; the rest acts on them.
package flush

import (
	"errors"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/reusetransport/reuseport/internal/errno"
	"github.com/reusetransport/reuseport/internal/sockopt"
)

// A Flusher looks after the closed connections of one Transport. The zero value is ready.
// All methods are safe for concurrent use. One goroutine and one timer serve all
// connections, and only as long as there are any. An inspection costs two system calls.
// The Flusher inspects at intervals instead of waiting for events, because an
// acknowledgement raises no readiness event.
//
// Lock order: inspecting, then mu. Close takes mu alone, so that it does not wait for the
// system calls of other closes, unless its peer has reset or too many are pending.
type Flusher struct {
	inspecting sync.Mutex // held while connections are inspected or ended
	buf        []byte     // for what is discarded
	batch      []*Closing // that are due

	mu      sync.Mutex    // held for no system call
	pending []*Closing    // oldest first
	idle    chan struct{} // closed when the last one has gone; nil while there is none
	wake    chan struct{} // tells the goroutine of an inspection before next
	next    time.Time
	counts  Counts
	lastEnd time.Time // when the last one went
}

// Counts is what a Flusher has counted.
type Counts struct {
	Pending     int    // not yet delivered, or waiting for the peer's end
	Aborted     uint64 // given up
	Reset       uint64 // ended by the peer or the network before all was acknowledged
	Undelivered uint64 // those of Aborted and Reset that had data outstanding, and not the FIN alone
	Bytes       uint64 // not acknowledged, of both
}

// A Closing is a connection that was closed. Its exported fields are set before Add; the
// Flusher owns the descriptor from then on.
type Closing struct {
	Laddr, Raddr netip.AddrPort
	FD           uintptr
	Hold         *Hold         // not nil: FD is package net's, and kept open by Hold
	FreeTuple    bool          // a reset frees the 4-tuple in the end
	Loopback     bool          // the peer is on loopback, where nothing is lost or overtaken
	Stall        time.Duration // how long the peer may acknowledge nothing

	progress  progress
	due       time.Time // of the next inspection
	discarded int
	status    status // the last one
	over      bool   // it has ended; guarded by Flusher.mu
}

// Counts returns the counters.
func (f *Flusher) Counts() Counts {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget()
	counts := f.counts
	counts.Pending = len(f.pending)
	return counts
}

// Add takes over a closed connection. It turns linger off, so that the end of the process
// delivers, and sends the FIN.
func (f *Flusher) Add(c *Closing) {
	now := time.Now()
	c.progress, c.status.unacked = newProgress(now, c.Stall), unknown
	if errno.IsNotConnected(errors.Join(sockopt.SetLinger(c.FD, false), sockopt.ShutdownWrite(c.FD))) {
		f.bury(c)
		return
	}
	c.due = now.Add(firstWait) // nothing is acknowledged yet
	for !f.enter(c) {
		f.evict()
	}
}

// bury ends a connection that the peer has reset before it was entered. A last inspection
// tells what did not make it.
func (f *Flusher) bury(c *Closing) {
	f.inspecting.Lock()
	defer f.inspecting.Unlock()
	c.status.broken = true
	f.step(c, time.Now())
}

// enter makes a connection one of the pending. It reports false if there are too many.
func (f *Flusher) enter(c *Closing) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.pending) >= maxPending {
		f.forget() // those that a sweep under way has ended
	}
	if len(f.pending) >= maxPending {
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

// run inspects the pending connections when they are due, until there are none.
func (f *Flusher) run(wake <-chan struct{}) {
	timer := time.NewTimer(firstWait)
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

// sweep inspects all that are due. It returns after what time to come again, or a negative
// time if nothing is pending any more.
func (f *Flusher) sweep(now time.Time) time.Duration {
	f.inspecting.Lock()
	defer f.inspecting.Unlock()
	f.collect(now)
	for _, c := range f.batch {
		f.step(c, now)
	}
	clear(f.batch)
	return f.settle()
}

// collect puts into batch what is due. The caller holds inspecting.
func (f *Flusher) collect(now time.Time) {
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
func (f *Flusher) forget() {
	f.pending = slices.DeleteFunc(f.pending, func(c *Closing) bool { return c.over })
}

// settle forgets what is over and returns what sweep does. The caller holds inspecting.
func (f *Flusher) settle() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget()
	if len(f.pending) == 0 {
		f.pending = nil
		close(f.idle)
		f.idle = nil
		return -1
	}
	soonest := slices.MinFunc(f.pending, func(a, b *Closing) int { return a.due.Compare(b.due) })
	f.next = soonest.due
	return max(0, time.Until(f.next))
}

// step inspects one connection and acts. It reports whether that was its end. The caller
// holds inspecting.
func (f *Flusher) step(c *Closing, now time.Time) bool {
	c.status = f.inspect(c)
	v := c.progress.next(now, c.status)
	if v == keep {
		c.due = now.Add(c.progress.wait)
		return false
	}
	f.end(c, v)
	return true
}

// end gives the socket up in the way that v says. The caller holds inspecting.
func (f *Flusher) end(c *Closing, v verdict) {
	f.count(c, v)
	// Nobody takes either error: the user's Close has returned, and both mean that the
	// socket is gone already. After the peer's reset nothing is left to free.
	if v == abort || v == release && c.FreeTuple && !c.status.broken {
		_ = sockopt.SetLinger(c.FD, true)
	}
	if c.Hold != nil {
		c.Hold.release()
		return
	}
	_ = sockopt.Close(c.FD)
}

// count records an end.
func (f *Flusher) count(c *Closing, v verdict) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c.over, f.lastEnd = true, time.Now()
	switch v {
	case abort:
		f.counts.Aborted++
	case lost:
		f.counts.Reset++
	default:
		return
	}
	f.counts.Bytes += uint64(c.status.outstanding(sockopt.FINUnacked))
	if c.status.holdsData(sockopt.FINUnacked) {
		f.counts.Undelivered++
	}
}

// evict makes room for one: it ends the oldest whose data has all arrived, or else the
// oldest.
func (f *Flusher) evict() {
	f.inspecting.Lock()
	defer f.inspecting.Unlock()
	c := f.oldest()
	if c == nil {
		return
	}
	if c.status.unacked != 0 {
		f.refresh(c)
	}
	f.end(c, c.status.whenEvicted())
}

// oldest returns the one to evict, or nil if there is room: a sweep may have made some
// while the caller waited for inspecting, which it holds.
func (f *Flusher) oldest() *Closing {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget()
	if len(f.pending) < maxPending {
		return nil
	}
	i := slices.IndexFunc(f.pending, func(c *Closing) bool { return c.status.unacked == 0 })
	return f.pending[max(i, 0)]
}

// refresh inspects a connection and decides nothing. The next decision is told what the
// inspection has heard.
func (f *Flusher) refresh(c *Closing) {
	c.status = f.inspect(c)
	if c.status.received > 0 {
		c.progress.heard = time.Now()
	}
}

// inspect discards what has come in and asks what is outstanding. An end of the peer that
// an earlier inspection has seen, and thereby taken off the socket, stays.
func (f *Flusher) inspect(c *Closing) status {
	s := f.drain(c)
	s.finished, s.broken = s.finished || c.status.finished, s.broken || c.status.broken
	n, err := sockopt.Unacked(c.FD)
	switch {
	case err != nil:
		s.unacked = unknown
	case n == 0 || n <= sockopt.FINUnacked && c.Loopback && finSent(c.FD):
		s.unacked = 0 // or the FIN arrives
	case s.finished || c.discarded >= maxDiscard:
		// A reset after the peer's FIN does not show on reading (Linux), and none does
		// where nothing is read any more.
		s.unacked, s.broken = n, s.broken || errno.IsNotConnected(sockopt.ShutdownWrite(c.FD))
	default:
		s.unacked = n
	}
	return s
}

// finSent reports whether a FIN of ours has left. Systems that cannot tell count nothing
// for a FIN, so there it is not in question.
func finSent(fd uintptr) bool {
	sent, err := sockopt.FINSent(fd)
	return sent || errors.Is(err, errors.ErrUnsupported)
}

// drain discards up to 16 buffers full, so that one connection does not keep the others
// waiting. A peer that has sent maxDiscard finds its window shut.
func (f *Flusher) drain(c *Closing) status {
	var s status
	if f.buf == nil {
		f.buf = make([]byte, 64<<10)
	}
	for range 16 {
		if c.discarded >= maxDiscard {
			break
		}
		n, err := sockopt.Discard(c.FD, f.buf)
		s.received += n
		c.discarded += n
		s.finished = err == io.EOF
		s.broken = err != nil && err != io.EOF
		if n == 0 || err != nil {
			break
		}
	}
	return s
}
