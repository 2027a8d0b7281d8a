package reuseport

import "time"

// A tokenBucket bounds a rate: at most burst tokens at once, and one more each
// every. It starts full. The zero full is a full bucket.
//
// It keeps one number, the time at which it will be full again (the generic
// cell rate algorithm), and is told what time it is.
type tokenBucket struct {
	burst int
	every time.Duration
	full  time.Time
}

// has tells whether a token is there at now.
func (b *tokenBucket) has(now time.Time) bool {
	room := b.every * time.Duration(b.burst)
	return b.full.Add(b.every).Sub(now) <= room
}

// take takes one token, and reports false if none is there.
func (b *tokenBucket) take(now time.Time) bool {
	if !b.has(now) {
		return false
	}
	b.owe(1, now)
	return true
}

// owe takes n tokens whether they are there or not: take reports false until
// the debt is paid.
func (b *tokenBucket) owe(n int, now time.Time) {
	if b.full.Before(now) {
		b.full = now
	}
	b.full = b.full.Add(b.every * time.Duration(n))
}

// giveBack returns one token that take gave.
func (b *tokenBucket) giveBack() { b.full = b.full.Add(-b.every) }
