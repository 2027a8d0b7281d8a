package serve

import "time"

// sweepInterval is how often the set is asked for connections that were closed
// by somebody else while they were parked: closing a descriptor takes it out of
// an epoll set without a word.
const sweepInterval = 5 * time.Second

// tick ends what is overdue. It runs on the timer's goroutine, as long as
// anything is parked.
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

// arm sets the timer for what comes first: the deadline of the connection that
// was parked first, or the next sweep. It stays set when that connection leaves,
// and then fires for nothing once. The caller holds mu; something is parked.
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
