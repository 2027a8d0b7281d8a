package reuseport

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/reusetransport/reuseport/internal/netaddr"
	"github.com/reusetransport/reuseport/internal/punchpace"
)

// This file has what a punch and an Accept share: the table of the peers that punches
// expect, and the queue of connections that punches left for Accept.

// maxPunches is how many punches run at one time. If more of them went unanswered, the
// kernel's repeats alone, one a second for each, would exceed the budget of SYNs.
const maxPunches = 48

// punchTable holds the punches under way and the budget that they share.
type punchTable struct {
	running atomic.Int32 // while it is zero, Accept does not take the lock

	mu     sync.Mutex
	byPeer map[netip.AddrPort]*expectation // nil until the first punch
	budget *punchpace.Budget
}

// expectation is what a punch waits for, and what it has spent.
type expectation struct {
	raddr netip.AddrPort
	peer  chan *Conn         // holds the peer's connection if it came to a listener
	stop  context.CancelFunc // ends the punch

	// Guarded by punchTable.mu:
	taken   bool
	account punchpace.Account
}

// begin enters a punch. It returns ErrTupleInUse if one towards raddr runs already, and
// ErrPunchLimit if too many run.
func (t *punchTable) begin(e *expectation) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byPeer[e.raddr] != nil {
		return ErrTupleInUse
	}
	if len(t.byPeer) >= maxPunches {
		return ErrPunchLimit
	}
	if t.byPeer == nil {
		t.byPeer, t.budget = make(map[netip.AddrPort]*expectation), punchpace.NewBudget()
	}
	t.byPeer[e.raddr] = e
	t.running.Add(1)
	return nil
}

func (t *punchTable) end(e *expectation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byPeer, e.raddr)
	t.running.Add(-1)
}

// allow takes the SYN of a punch's next dial from the budget. What the dials in flight owe
// is taken first. It reports false, and takes nothing, if the budget is spent.
func (t *punchTable) allow(e *expectation) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for _, other := range t.byPeer {
		t.budget.Charge(&other.account, now)
	}
	return t.budget.Allow(&e.account, now)
}

// settle closes the account of a dial that has ended and sent syns SYNs.
func (t *punchTable) settle(e *expectation, syns int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.budget.Settle(&e.account, syns, time.Now())
}

// stopAll ends all punches under way.
func (t *punchTable) stopAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.byPeer {
		e.stop()
	}
}

// take gives an accepted connection to the punch that aims at its peer. It reports false
// if there is no such punch or the punch has a connection already.
func (t *punchTable) take(c *Conn) bool {
	if t.running.Load() == 0 {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byPeer[netaddr.From(c.RemoteAddr())]
	if e == nil || e.taken {
		return false
	}
	e.taken = true
	e.peer <- c
	e.stop()
	return true
}

// maxWaiting bounds the connections of others that punches keep for one socket.
const maxWaiting = 128

// acceptQueue holds connections that punches accepted from a socket and that belong to
// others. A punch has to accept them: while a connection is in the kernel's queue, nobody
// can see whose it is.
type acceptQueue struct {
	mu        sync.Mutex
	accepting int // callers in Accept, on any handle; they hand a punch its connection
	waiting   []*Conn
}

// enter begins an Accept. It returns a connection that waits. If there is none it counts the
// caller as accepting, until the caller calls leave.
func (q *acceptQueue) enter() *Conn {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) > 0 {
		c := q.waiting[0]
		q.waiting = slices.Delete(q.waiting, 0, 1)
		return c
	}
	q.accepting++
	return nil
}

func (q *acceptQueue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.accepting--
}

// fill offers take what earlier punches left in the queue. Then, unless somebody is in
// Accept, it accepts what is there, and puts what take does not take into the queue.
func (q *acceptQueue) fill(take func(*Conn) bool, acceptNow func() (*Conn, error)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = slices.DeleteFunc(q.waiting, take)
	for q.accepting == 0 && len(q.waiting) < maxWaiting {
		c, err := acceptNow()
		if err != nil {
			return // nothing waits; Accept will meet any other error itself
		}
		if !take(c) {
			q.waiting = append(q.waiting, c)
		}
	}
}

// abort resets what waits, as the kernel does with its queue when a socket closes.
func (q *acceptQueue) abort() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	var errs []error
	for _, c := range q.waiting {
		errs = append(errs, c.Abort())
	}
	q.waiting = nil
	return errors.Join(errs...)
}
