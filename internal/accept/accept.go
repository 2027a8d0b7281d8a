// Package accept is the one place that decides what an error of accept(2) means
// for a listener and how long to wait after it; the error numbers are in package errno.
// The transport's listener and package serve both call Next; neither has a
// back-off of its own.
//
// [Classify] is a pure function of the error, the waiting times are a pure
// function of the errors so far (past.after), and [Next] acts on both.
package accept

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/reusetransport/reuseport/internal/errno"
)

// Default waiting times of a [Backoff], those of net/http.Server.
const (
	DefaultMin = 5 * time.Millisecond
	DefaultMax = time.Second
)

// Backoff decides how long a listener waits after an accept error. The zero
// value is ready. One Backoff belongs to one socket and serves any number of
// goroutines that accept from it; it must not be copied and its fields not
// changed after the first use.
type Backoff struct {
	// Min is the wait after the first starved accept, doubled by each further
	// one up to Max and reset by a success. Zero or negative: DefaultMin.
	Min time.Duration
	// Max bounds the wait. Zero or negative: DefaultMax. A Max below Min
	// counts as Min, so that Min == Max makes a fixed delay.
	Max time.Duration
	// Notify, if not nil, is told of every error that Next swallows, on the
	// goroutine that accepts and before it waits. It may be called by several
	// goroutines at once.
	Notify func(Event)

	// Relieve, if not nil, is called when an accept lacks descriptors or memory. If it reports that it
	// freed descriptors, the accept is tried again at once.
	Relieve func() bool

	mu      sync.Mutex
	past    past
	failing atomic.Bool // while it is false, a success does not take the mutex
}

// Event is one accept error that did not reach the caller.
type Event struct {
	Kind Kind
	Err  error
	Wait time.Duration // until the next accept; zero: at once
	// First is true for the first error of a burst that makes the listener
	// wait: the one to log. A burst has ended when no such error came for
	// ten seconds.
	First bool
}

// Next calls accept until it returns a connection or an error that is the
// caller's to handle: [Dead] or [Unknown]. It swallows [Harmless] errors, and
// waits after [Starved] ones. When closed is closed during a wait, Next returns
// net.ErrClosed at once; a call of accept that blocks has to be ended by
// closing the listener.
func Next[C any](b *Backoff, closed <-chan struct{}, accept func() (C, error)) (C, error) {
	for {
		c, err := accept()
		if err == nil {
			b.succeeded()
			return c, nil
		}
		kind := Classify(err)
		if kind != Harmless && kind != Starved {
			return c, err
		}
		if b.Relieve != nil && errno.IsOutOfResources(err) && b.Relieve() {
			continue
		}
		if !sleep(b.failed(kind, err), closed) {
			return c, net.ErrClosed
		}
	}
}

func (b *Backoff) succeeded() {
	if !b.failing.Load() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.past = b.past.succeeded()
	b.failing.Store(false)
}

// failed records the error, tells Notify and returns the time to wait.
func (b *Backoff) failed(kind Kind, err error) time.Duration {
	e := Event{Kind: kind, Err: err}
	b.mu.Lock()
	b.past, e.Wait, e.First = b.past.after(kind, time.Now(), b.limits())
	b.failing.Store(true)
	b.mu.Unlock()
	if b.Notify != nil {
		b.Notify(e)
	}
	return e.Wait
}

func (b *Backoff) limits() limits {
	lim := limits{lo: b.Min, hi: b.Max}
	if lim.lo <= 0 {
		lim.lo = DefaultMin
	}
	if lim.hi <= 0 {
		lim.hi = DefaultMax
	}
	lim.hi = max(lim.lo, lim.hi)
	return lim
}

// sleep waits for d. It reports false if closed is closed by then.
func sleep(d time.Duration, closed <-chan struct{}) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-closed:
		return false
	case <-t.C:
		return true
	}
}
