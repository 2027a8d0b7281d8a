package foreign_test

import (
	"fmt"
	"testing"
	"time"
)

// TestSlowReader reads 1 MB at a steady 20 kB/s.
func TestSlowReader(t *testing.T) {
	py := program(t, "python3")
	onBoth(t, func(t *testing.T, s site) {
		const size = 1_000_000
		addrs := s.mustServe(t, service{Manner: answers, Size: size})
		compare(t, row{name: "python reads 20 kB/s, 1 MB", tries: 2, atOnce: 2}, func(k stack, _ int) error {
			c := python(py, readsPy, addrs[k], "--piece=2000", "--rate=20000")
			c.Limit = 100 * time.Second
			return s.whole(t.Context(), c, size, 1)
		})
	})
}

// TestLateReader begins to read after a while.
func TestLateReader(t *testing.T) {
	onBoth(t, func(t *testing.T, s site) { lateReader(t, s, 6*time.Second, 10) })
}

// TestLateReaderLong is TestLateReader with 30 s.
func TestLateReaderLong(t *testing.T) {
	if !*long {
		t.Skip("needs -long")
	}
	onBoth(t, func(t *testing.T, s site) { lateReader(t, s, 30*time.Second, 5) })
}

func lateReader(t *testing.T, s site, after time.Duration, tries int) {
	py := program(t, "python3")
	const size = 300_000
	addrs := s.mustServe(t, service{Manner: answers, Size: size})
	r := row{name: fmt.Sprintf("python begins to read after %v, 300 kB", after), tries: tries, atOnce: tries}
	compare(t, r, func(k stack, _ int) error {
		c := python(py, readsPy, addrs[k], fmt.Sprintf("--after=%f", after.Seconds()))
		c.Limit = after + limit
		return s.whole(t.Context(), c, size, 1)
	})
}
