package foreign_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// stack is one of the two that every row compares.
type stack string

const (
	transport  stack = "reuseport"
	packageNet stack = "package net"
)

func stacks() []stack { return []stack{transport, packageNet} }

// row is one line of the table.
type row struct {
	name   string
	tries  int
	atOnce int  // tries of each stack at one time; zero = both stacks one after the other
	lost   bool // package net loses too: the transport must be whole on its own
}

// tally is what one stack did in a row.
type tally struct {
	mu     sync.Mutex
	whole  int
	faults map[string]int
}

// compare makes the tries of a row over both stacks in turn, and demands that the
// transport's are whole as often as package net's. A try returns nil if it was whole.
func compare(t *testing.T, r row, try func(k stack, i int) error) {
	t.Helper()
	began := time.Now()
	ours, theirs := newTally(), newTally()
	inTurn(r, func(k stack, i int) {
		err := try(k, i)
		if k == transport {
			ours.add(err)
		} else {
			theirs.add(err)
		}
	})
	judge(t, r, ours, theirs, time.Since(began))
}

// inTurn calls try for both stacks in turn, and returns when all calls have.
func inTurn(r row, try func(k stack, i int)) {
	var running sync.WaitGroup
	room := make(chan struct{}, max(1, 2*r.atOnce))
	for i := range r.tries {
		for _, k := range stacks() {
			room <- struct{}{}
			running.Go(func() {
				defer func() { <-room }()
				try(k, i)
			})
		}
	}
	running.Wait()
}

func newTally() *tally { return &tally{faults: map[string]int{}} }

func (l *tally) add(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.whole++
		return
	}
	l.faults[err.Error()]++
}

// String returns the most frequent faults.
func (l *tally) String() string {
	faults := slices.SortedFunc(maps.Keys(l.faults), func(a, b string) int {
		return cmp.Or(cmp.Compare(l.faults[b], l.faults[a]), strings.Compare(a, b))
	})
	var lines []string
	for _, fault := range faults[:min(3, len(faults))] {
		lines = append(lines, fmt.Sprintf("  %d x %s", l.faults[fault], fault))
	}
	return strings.Join(lines, "\n")
}

func judge(t *testing.T, r row, ours, theirs *tally, took time.Duration) {
	t.Helper()
	t.Logf("| %s | %s | reuseport %d of %d | package net %d of %d | %.1f s",
		t.Name(), r.name, ours.whole, r.tries, theirs.whole, r.tries, took.Seconds())
	if fault := verdict(r, ours.whole, theirs.whole); fault != "" {
		t.Errorf("%s: %s\nreuseport:\n%v\npackage net:\n%v", r.name, fault, ours, theirs)
	}
}

// verdict returns what is wrong with a row, or nothing.
func verdict(r row, ours, theirs int) string {
	switch {
	case r.lost && ours < r.tries:
		return "not all are whole"
	case r.lost:
		return ""
	case ours < theirs:
		return "worse than package net"
	case theirs < r.tries*9/10:
		return "package net fails too: the row proves nothing"
	}
	return ""
}

// TestVerdict checks when a row fails.
func TestVerdict(t *testing.T) {
	for _, tt := range []struct {
		row          row
		ours, theirs int
		fails        bool
	}{
		{row{tries: 20}, 20, 20, false},
		{row{tries: 20}, 20, 18, false},
		{row{tries: 20}, 17, 18, true},
		{row{tries: 20}, 20, 17, true}, // proves nothing
		{row{tries: 20, lost: true}, 20, 0, false},
		{row{tries: 20, lost: true}, 19, 0, true},
	} {
		if fault := verdict(tt.row, tt.ours, tt.theirs); (fault != "") != tt.fails {
			t.Errorf("%+v: %d and package net %d: %q", tt.row, tt.ours, tt.theirs, fault)
		}
	}
}
