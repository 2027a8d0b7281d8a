// Package punchpace decides when a punch may send its next SYN. The peer names the
// address that is punched, so a punch must not become a tool that floods a third party.
// Every SYN on the wire counts, the kernel's own retransmissions included.
//
// The package is pure: the caller passes in the time and the randomness. A [Pace] bounds one
// punch, and a [Budget] bounds all punches of a Transport together.
package punchpace

import "time"

// The limits of one punch.
const (
	firstSecond = 20  // SYNs in the first second
	perSecond   = 5   // in any one second after it
	total       = 100 // in a whole punch

	// atOnce is the number of failed dials that are followed by the next one at
	// once. Two peers that both redial at once repeat every round trip and so are
	// sure to cross; ten repeats cover a start 200 ms apart at a round trip of 20 ms.
	atOnce = 10
)

// synRetransmit is the shortest time after which Linux repeats a SYN
// (tcp_syn_linear_timeouts: 1.03, 2.06, 3.08, 4.10, 5.13 s after the first, 7.14, 11.18;
// measured on 6.18). RFC 6298 demands at least 1 s of everyone.
const synRetransmit = time.Second

// A Pace is what one punch has sent. The zero value is a punch that has sent nothing. It
// is not safe for concurrent use.
type Pace struct {
	began time.Time
	syns  []time.Time // sent, or possibly sent by the kernel; in order
	dials int
}

// Dialed records the SYN of a dial that started at time t.
func (p *Pace) Dialed(t time.Time) {
	if p.dials == 0 {
		p.began = t
	}
	p.dials++
	p.syns = append(p.syns, t)
}

// Failed records that the last dial ended at time t, and returns how often the kernel may
// have repeated its SYN.
func (p *Pace) Failed(t time.Time) (repeats int) {
	dialed := p.syns[len(p.syns)-1]
	repeats = int(t.Sub(dialed) / synRetransmit)
	for n := range repeats {
		p.syns = append(p.syns, dialed.Add(time.Duration(n+1)*synRetransmit))
	}
	return repeats
}

// Patience returns how long a dial that starts now may stay in flight before the
// kernel's repeats pass the limit of a punch.
func (p *Pace) Patience() time.Duration {
	return time.Duration(total-len(p.syns))*synRetransmit - synRetransmit/2
}

// Next returns how long to wait before the next dial. It reports more as false when the
// limit of a punch is reached. jitter is random in [0, 1).
func (p *Pace) Next(now time.Time, jitter float64) (wait time.Duration, more bool) {
	if len(p.syns) >= total {
		return 0, false
	}
	if p.dials > atOnce {
		wait = Pause(jitter)
	}
	allowed := p.allowed(now.Add(wait))
	if held := allowed.Sub(now); held > wait {
		wait = held + Pause(jitter)
	}
	return wait, true
}

// Pause returns 25 to 75 ms. It must differ between the two sides: two peers that repeat
// with one period miss each other for ever.
func Pause(jitter float64) time.Duration {
	return 25*time.Millisecond + time.Duration(jitter*float64(50*time.Millisecond))
}

// allowed returns the earliest time, not before t, at which the rates allow one more SYN.
func (p *Pace) allowed(t time.Time) time.Time {
	afterFirst := p.began.Add(time.Second)
	if t.Before(afterFirst) {
		if len(p.syns) < firstSecond {
			return t
		}
		return afterFirst
	}
	fifth := len(p.syns) - perSecond
	if fifth < 0 || p.syns[fifth].Before(afterFirst) {
		return t
	}
	if free := p.syns[fifth].Add(time.Second); free.After(t) {
		return free
	}
	return t
}
