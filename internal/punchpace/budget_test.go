package punchpace

import "testing"

// TestBudget: a dial pays for its SYN and for one repeat ahead, and gets back what it did
// not use.
func TestBudget(t *testing.T) {
	b, now := NewBudget(), start
	accounts := make([]Account, budgetBurst)
	allowed := func() (n int) {
		for n < len(accounts) && b.Allow(&accounts[n], now) {
			n++
		}
		return n
	}
	if n := allowed(); n != budgetBurst/2 {
		t.Fatalf("%d dials started at once, want %d: each pays for a repeat", n, budgetBurst/2)
	}
	for i := range budgetBurst / 2 {
		b.Settle(&accounts[i], 1, now)
		if accounts[i] != (Account{}) {
			t.Fatalf("a settled account still has a dial in flight: %+v", accounts[i])
		}
	}
	if n := allowed(); n != budgetBurst/4 {
		t.Fatalf("%d dials started after the repeats were given back, want %d", n, budgetBurst/4)
	}
}

// TestBudgetChargesRepeats: dials that stay in flight use up what time brings, and more.
func TestBudgetChargesRepeats(t *testing.T) {
	b, now := NewBudget(), start
	accounts := make([]Account, budgetBurst/2)
	for i := range accounts {
		if !b.Allow(&accounts[i], now) {
			t.Fatalf("dial %d refused", i)
		}
	}
	for range 10 {
		now = now.Add(synRetransmit)
		for i := range accounts {
			b.Charge(&accounts[i], now)
		}
		var next Account
		if b.Allow(&next, now) {
			t.Fatalf("after %v a dial was allowed: the repeats in flight need all of the rate", now.Sub(start))
		}
	}
	b.Charge(&Account{}, now) // nothing in flight owes nothing
	for i := range accounts {
		b.Settle(&accounts[i], 11, now)
	}
	if !b.Allow(&accounts[0], now) || accounts[0].charged != 2 {
		t.Error("the repeats that were paid ahead did not come back")
	}
}
