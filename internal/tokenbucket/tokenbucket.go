// Package tokenbucket bounds a rate. It is pure: the caller passes in the time.
package tokenbucket

import "time"

// A Bucket holds tokens. It keeps one number, the time at which it will be full again
// (the generic cell rate algorithm). It is not safe for concurrent use.
type Bucket struct {
	burst int
	every time.Duration
	full  time.Time
}

// New returns a full bucket of burst tokens. It gains one token per interval every.
func New(burst int, every time.Duration) Bucket { return Bucket{burst: burst, every: every} }

// Has reports whether a token is there.
func (b *Bucket) Has(now time.Time) bool {
	room := b.every * time.Duration(b.burst)
	return b.full.Add(b.every).Sub(now) <= room
}

// Take takes one token. It reports false, and takes nothing, if none is there.
func (b *Bucket) Take(now time.Time) bool {
	if !b.Has(now) {
		return false
	}
	b.Owe(1, now)
	return true
}

// Owe takes n tokens whether they are there or not; Take reports false until the debt is
// paid. A negative n gives tokens back.
func (b *Bucket) Owe(n int, now time.Time) {
	if b.full.Before(now) {
		b.full = now
	}
	b.full = b.full.Add(b.every * time.Duration(n))
}

// GiveBack returns one token that Take took.
func (b *Bucket) GiveBack() { b.full = b.full.Add(-b.every) }
