package punchpace

import (
	"time"

	"github.com/reusetransport/reuseport/internal/tokenbucket"
)

// All punches of a Transport together may send budgetBurst SYNs at once, and one more every
// budgetEvery, which is 50 a second.
const (
	budgetBurst = 100
	budgetEvery = 20 * time.Millisecond
)

// A Budget bounds the SYNs of several punches together. It is not safe for concurrent
// use.
type Budget struct{ bucket tokenbucket.Bucket }

// NewBudget returns a full budget.
func NewBudget() *Budget { return &Budget{tokenbucket.New(budgetBurst, budgetEvery)} }

// An Account is what one punch has taken from a Budget for the dial that it has in
// flight. The zero value has no such dial.
type Account struct {
	dialing time.Time // when the dial in flight began; zero if there is none
	charged int       // SYNs of that dial that are paid for
}

// Allow takes the SYN of a's next dial from the budget, and with it the kernel's first
// repeat, a second ahead of it. It reports false, and takes nothing, if the budget is
// spent. The caller charges the other accounts first.
func (b *Budget) Allow(a *Account, now time.Time) bool {
	if !b.bucket.Take(now) {
		return false
	}
	*a = Account{dialing: now, charged: 1}
	b.Charge(a, now)
	return true
}

// Charge pays for the kernel's repeats of a dial in flight. Each is paid a second before
// it is due, so that other punches cannot spend what it needs.
func (b *Budget) Charge(a *Account, now time.Time) {
	if a.dialing.IsZero() {
		return
	}
	due := 2 + int(now.Sub(a.dialing)/synRetransmit)
	b.bucket.Owe(due-a.charged, now)
	a.charged = due
}

// Settle closes the account of a dial that has ended and sent syns SYNs.
func (b *Budget) Settle(a *Account, syns int, now time.Time) {
	b.bucket.Owe(syns-a.charged, now)
	*a = Account{}
}
