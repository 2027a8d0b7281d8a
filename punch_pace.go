package reuseport

import "time"

// How often a punch may send a SYN. The address is the peer's word, so a punch
// must not become a tool that floods a third party. What counts is the SYN on
// the wire: the kernel's own retransmissions are in all of these.
const (
	punchFirstSecond = 20  // SYNs in the first second of a punch
	punchPerSecond   = 5   // in any one second after it
	punchSYNs        = 100 // in a whole punch

	// punchAtOnce is the number of failed dials that are followed by the next
	// one at once. Two peers that both redial at once repeat every round trip
	// and so cross for certain; ten repeats cover a start 200 ms apart at a
	// round trip of 20 ms.
	punchAtOnce = 10

	// punchBurst, punchEvery: all punches of a Transport together send 100 SYNs
	// at once and 50 a second after. maxPunches run at one time: more, all silent,
	// would pass that rate by the kernel's repeats alone.
	punchBurst = 100
	punchEvery = 20 * time.Millisecond
	maxPunches = 48

	// synRetransmit is the shortest time after which Linux repeats a SYN
	// (tcp_syn_linear_timeouts: 1.03, 2.06, 3.08, 4.10, 5.13 s after the first,
	// 7.14, 11.18; measured on 6.18). RFC 6298 demands at least 1 s of everyone.
	synRetransmit = time.Second
)

// A punchPace is what one punch has sent. It decides when the next dial may
// start; it has no clock and no randomness of its own.
type punchPace struct {
	began time.Time
	syns  []time.Time // sent, or possibly sent by the kernel; in order
	dials int
}

// dialed records the SYN of a dial that starts at.
func (p *punchPace) dialed(at time.Time) {
	if p.dials == 0 {
		p.began = at
	}
	p.dials++
	p.syns = append(p.syns, at)
}

// ended records that the last dial ended at, and returns how often the kernel
// may have repeated its SYN.
func (p *punchPace) ended(at time.Time) (repeats int) {
	dialed := p.syns[len(p.syns)-1]
	repeats = int(at.Sub(dialed) / synRetransmit)
	for n := range repeats {
		p.syns = append(p.syns, dialed.Add(time.Duration(n+1)*synRetransmit))
	}
	return repeats
}

// patience is how long a dial that starts now may stay in flight
// before the kernel's repeats pass the limit of a punch.
func (p *punchPace) patience() time.Duration {
	return time.Duration(punchSYNs-len(p.syns))*synRetransmit - synRetransmit/2
}

// next tells how long to wait before the next dial, or that there is none: the
// limit of a punch is reached. jitter is random in [0, 1).
func (p *punchPace) next(now time.Time, jitter float64) (wait time.Duration, more bool) {
	if len(p.syns) >= punchSYNs {
		return 0, false
	}
	if p.dials > punchAtOnce {
		wait = punchPause(jitter)
	}
	allowed := p.allowed(now.Add(wait))
	if held := allowed.Sub(now); held > wait {
		wait = held + punchPause(jitter)
	}
	return wait, true
}

// punchPause is 25 to 75 ms. It must not be the same on both sides: two peers
// that repeat with one period miss each other for ever.
func punchPause(jitter float64) time.Duration {
	return 25*time.Millisecond + time.Duration(jitter*float64(50*time.Millisecond))
}

// allowed returns the earliest time, not before t, at which the rates allow one
// more SYN.
func (p *punchPace) allowed(t time.Time) time.Time {
	afterFirst := p.began.Add(time.Second)
	if t.Before(afterFirst) {
		if len(p.syns) < punchFirstSecond {
			return t
		}
		return afterFirst
	}
	fifth := len(p.syns) - punchPerSecond
	if fifth < 0 || p.syns[fifth].Before(afterFirst) {
		return t
	}
	if free := p.syns[fifth].Add(time.Second); free.After(t) {
		return free
	}
	return t
}
