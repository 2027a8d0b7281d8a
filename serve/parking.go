package serve

import (
	"sync"
	"syscall"
	"time"
)

// parking owns the connections that have no handler running because there is nothing
// to read. The watcher that finds a connection readable, the timer and close may
// compete for it: the one that takes it out under mu owns it.
type parking struct {
	timeout time.Duration       // of each connection; zero or negative: none
	resume  func(*conn)         // gets a connection that is readable; must not block
	expire  func(*conn, reason) // gets a connection that is to end

	mu      sync.Mutex
	idle    list
	stays   uint32 // numbers the stays, so that a late event is recognised
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
	stay        uint32        // number of the present stay; zero when not parked
	fd          int32         // of the present stay, -1 if the set does not watch it
	known       bool          // the descriptor is in the set already
}

// epoch lets a deadline fit into 8 bytes: only differences from it are used.
var epoch = time.Now()

// reason says why a parked connection ends without its handler.
type reason int

const (
	idle     reason = iota // IdleTimeout has passed
	vanished               // other code closed it while it was parked
)

func newParking(timeout time.Duration, resume func(*conn), expire func(*conn, reason)) *parking {
	return &parking{timeout: timeout, resume: resume, expire: expire}
}

// park takes c over and reports whether it did. It does not, and c stays the
// caller's, if the parking or the connection is closed, or if look is set and there
// is something to read.
func (p *parking) park(c *conn, raw syscall.RawConn, look bool) bool {
	parked := false
	err := raw.Control(func(fd uintptr) {
		if !look || !hasInput(fd) {
			parked = p.parkFD(c, raw, fd)
		}
	})
	return parked && err == nil
}

// parkFD is park while fd is held open.
func (p *parking) parkFD(c *conn, raw syscall.RawConn, fd uintptr) bool {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return false
	}
	stay := p.enter(c)
	stale, watched := p.set.watch(p, c, fd)
	p.mu.Unlock()
	// From here on c may have another owner.
	if stale != nil {
		p.expire(stale, vanished)
	}
	if !watched {
		go p.wait(c, raw, stay)
	}
	return true
}

// enter starts a stay of c. The caller holds mu.
func (p *parking) enter(c *conn) (stay uint32) {
	if p.stays++; p.stays == 0 {
		p.stays++ // zero means not parked
	}
	c.stay = p.stays
	c.deadline = time.Since(epoch) + p.timeout
	p.idle.push(c)
	if !p.armed {
		p.arm(time.Since(epoch))
	}
	return c.stay
}

// lasted returns how long ago the last stay of c began. The caller owns c.
func (p *parking) lasted(c *conn) time.Duration {
	return time.Since(epoch) - (c.deadline - p.timeout)
}

// take ends the given stay of c and reports whether it lasted until now; if so, the
// caller owns c.
func (p *parking) take(c *conn, stay uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.stay != stay {
		return false
	}
	p.remove(c)
	return true
}

// remove ends the stay of c. The caller holds mu, and owns c afterwards.
func (p *parking) remove(c *conn) {
	p.idle.remove(c)
	p.set.leave(c)
	c.stay = 0
}

// wait watches one connection that the set does not watch, on a goroutine of its own.
func (p *parking) wait(c *conn, raw syscall.RawConn, stay uint32) {
	err := waitReadable(raw)
	if !p.take(c, stay) {
		return
	}
	if err != nil {
		p.expire(c, vanished)
		return
	}
	p.resume(c)
}

// close takes all connections out and lets no more in.
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
