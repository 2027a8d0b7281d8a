package flush

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestAwaitTellsOfSweep: what a sweep cuts that was under way when Await began is in
// its result. Until the sweep is over, nothing is both pending and cut.
func TestAwaitTellsOfSweep(t *testing.T) {
	f := new(Flusher)
	c := &Closing{status: status{unacked: 1000}}
	f.pending, f.idle = []*Closing{c}, make(chan struct{})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	f.inspecting.Lock() // as sweep does
	told := make(chan Undelivered)
	go func() {
		left, err := f.Await(ended)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Await: %v, want context.Canceled", err)
		}
		told <- left
	}()
	time.Sleep(200 * time.Millisecond) // Await stands at inspecting
	f.count(c, abort)
	if n := f.Counts(); n.Pending != 0 || n.Aborted != 1 {
		t.Errorf("%d pending, %d aborted", n.Pending, n.Aborted)
	}
	f.inspecting.Unlock()
	if left := <-told; left.Conns != 1 || left.Bytes < 900 {
		t.Errorf("Await tells of %+v", left)
	}
}
