package reuseport

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestAwaitTellsOfSweep: what a sweep cuts that was under way when Shutdown began to
// wait is in its error. Until the sweep is over, nothing is both pending and cut.
func TestAwaitTellsOfSweep(t *testing.T) {
	f := new(flusher)
	c := &closing{look: look{unacked: 1000}}
	f.pending, f.idle = []*closing{c}, make(chan struct{})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	f.looks.Lock() // as sweep does
	told := make(chan error)
	go func() { told <- f.await(ended) }()
	time.Sleep(200 * time.Millisecond) // await stands at looks
	f.count(c, abort)
	var s Stats
	if f.stats(&s); s.ClosesPending != 0 || s.ClosesAborted != 1 {
		t.Errorf("%d pending, %d aborted", s.ClosesPending, s.ClosesAborted)
	}
	f.looks.Unlock()
	var undelivered *UndeliveredError
	if err := <-told; !errors.As(err, &undelivered) || undelivered.Conns != 1 || undelivered.Bytes < 900 {
		t.Errorf("Shutdown tells of %v", err)
	}
}
