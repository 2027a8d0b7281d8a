package serve

import "time"

// sweepInterval is how often the set is searched for connections that other code
// closed while they were parked. The search is needed because closing a descriptor
// removes it from an epoll set without an event.
const sweepInterval = 5 * time.Second

// tick ends overdue stays. It runs on the timer's goroutine while anything is parked.
func (p *parking) tick() {
	now := time.Since(epoch)
	for _, c := range p.overdue(now) {
		p.expire(c, idle)
	}
	if p.sweepIsDue(now) {
		for _, c := range p.set.sweep(p) {
			p.expire(c, vanished)
		}
	}
	p.rearm()
}

// overdue takes out the connections whose deadline has passed.
func (p *parking) overdue(now time.Duration) []*conn {
	if p.timeout <= 0 {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*conn
	for c := p.idle.first; c != nil && c.deadline <= now; c = p.idle.first {
		p.remove(c)
		out = append(out, c)
	}
	return out
}

func (p *parking) sweepIsDue(now time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return now >= p.sweepAt
}

// rearm sets the timer again, if anything is parked.
func (p *parking) rearm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = false
	if p.idle.n > 0 && !p.closed {
		p.arm(time.Since(epoch))
	}
}

// arm sets the timer for whichever comes first: the deadline of the connection that
// was parked first, or the next sweep. If that connection leaves early, the timer
// fires once for nothing. The caller holds mu, and something is parked.
func (p *parking) arm(now time.Duration) {
	if p.sweepAt <= now {
		p.sweepAt = now + sweepInterval
	}
	next := p.sweepAt
	if p.timeout > 0 {
		next = min(next, p.idle.first.deadline)
	}
	p.armed = true
	d := max(next-now, time.Millisecond)
	if p.timer == nil {
		p.timer = time.AfterFunc(d, p.tick)
		return
	}
	p.timer.Reset(d)
}
