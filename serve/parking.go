package serve

import (
	"sync"
	"syscall"
	"time"
)

// parking holds the connections that nobody serves because there is nothing to
// read. It owns them. Whoever takes one out under mu owns it from then on, and
// just one can: the watcher that found it readable, the timer, or close.
type parking struct {
	timeout time.Duration       // of each connection, zero or negative: none
	resume  func(*conn)         // gets a connection that is readable; must not block
	expire  func(*conn, reason) // gets a connection that is to end

	mu      sync.Mutex
	idle    list
	visits  uint32 // numbers the stays, so that a late event finds out that it is late
	closed  bool
	timer   *time.Timer   // the one timer of all deadlines; nil until first needed
	armed   bool          // the timer will fire
	sweepAt time.Duration // the next sweep, since epoch
	set     watchSet      // the system's way to watch many descriptors
}

// parkedConn is the part of a conn that belongs to the parking.
type parkedConn struct {
	prev, after *conn
	deadline    time.Duration // since epoch
	visit       uint32        // of the present stay; zero when not parked
	fd          int32         // of the present stay, -1 if the set does not watch it
	known       bool          // the set has it already
}

// epoch makes deadlines of 8 bytes; only differences to it are used.
var epoch = time.Now()

// reason says why a parked connection ends without its handler.
type reason int

const (
	idle     reason = iota // IdleTimeout has passed
	vanished               // somebody closed it while it was parked
)

func newParking(timeout time.Duration, resume func(*conn), expire func(*conn, reason)) *parking {
	return &parking{timeout: timeout, resume: resume, expire: expire}
}

// park takes c over. False means that c is still the caller's: the parking or the
// connection is closed, or look is set and there is something to read.
func (p *parking) park(c *conn, raw syscall.RawConn, look bool) bool {
	parked := false
	err := raw.Control(func(fd uintptr) {
		if !look || !hasInput(fd) {
			parked = p.parkFD(c, raw, fd)
		}
	})
	return parked && err == nil
}

// parkFD does the work of park while fd cannot be closed.
func (p *parking) parkFD(c *conn, raw syscall.RawConn, fd uintptr) bool {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return false
	}
	visit := p.enter(c)
	stale, watched := p.set.watch(p, c, fd)
	p.mu.Unlock()
	// From here on somebody else may own c.
	if stale != nil {
		p.expire(stale, vanished)
	}
	if !watched {
		go p.wait(c, raw, visit)
	}
	return true
}

// enter makes c parked. The caller holds mu.
func (p *parking) enter(c *conn) (visit uint32) {
	if p.visits++; p.visits == 0 {
		p.visits++ // zero means not parked
	}
	c.visit = p.visits
	c.deadline = time.Since(epoch) + p.timeout
	p.idle.push(c)
	if !p.armed {
		p.arm(time.Since(epoch))
	}
	return c.visit
}

// take makes the caller the owner of c if c is still in the given stay.
func (p *parking) take(c *conn, visit uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.visit != visit {
		return false
	}
	p.remove(c)
	return true
}

// remove ends the stay of c. The caller holds mu and owns c from then on.
func (p *parking) remove(c *conn) {
	p.idle.remove(c)
	p.set.leave(c)
	c.visit = 0
}

// wait is the watcher of one connection, where the set has none: a goroutine.
func (p *parking) wait(c *conn, raw syscall.RawConn, visit uint32) {
	err := waitReadable(raw)
	if !p.take(c, visit) {
		return
	}
	if err != nil {
		p.expire(c, vanished)
		return
	}
	p.resume(c)
}

// close takes all connections out and lets none in again.
func (p *parking) close() []*conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.timer != nil {
		p.timer.Stop()
	}
	all := make([]*conn, 0, p.idle.n)
	for p.idle.first != nil {
		all = append(all, p.idle.first)
		p.remove(p.idle.first)
	}
	p.set.close()
	return all
}

func (p *parking) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.idle.n
}
