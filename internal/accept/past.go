package accept

import "time"

// maxHarmless is how many harmless errors in a row are skipped without a wait.
// Each of them should use up one connection of the accept queue. The bound prevents
// a busy loop on a system or a listener where one does not.
const maxHarmless = 64

// burstGap is how long no error must make us wait for a burst to end. A success
// does not end it: a process at its descriptor limit accepts one connection for
// each that ends, and would log each time.
const burstGap = 10 * time.Second

type limits struct{ lo, hi time.Duration }

// past sums up the errors of a listener so far.
type past struct {
	delay    time.Duration // the last wait, zero after a success
	harmless int           // harmless errors since the last success or wait
	waited   time.Time     // when the last error that made us wait came
}

func (p past) succeeded() past { return past{waited: p.waited} }

// after returns the past that includes an error of the given kind, the time to
// wait, and whether the error begins a burst.
func (p past) after(kind Kind, now time.Time, lim limits) (next past, wait time.Duration, first bool) {
	if kind == Harmless && p.harmless < maxHarmless {
		p.harmless++
		return p, 0, false
	}
	first = p.waited.IsZero() || now.Sub(p.waited) > burstGap
	wait = min(max(2*p.delay, lim.lo), lim.hi)
	return past{delay: wait, waited: now}, wait, first
}
