package flush

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestAwait: it waits until everything is acknowledged, and not for the peers' ends.
func TestAwait(t *testing.T) {
	t.Parallel()
	var f Flusher
	if left, err := f.Await(t.Context()); left != (Undelivered{}) || err != nil {
		t.Errorf("without a close: %+v, %v", left, err)
	}
	peers := addClosed(t, &f, 2)
	const late = 50 * time.Millisecond
	time.AfterFunc(late, func() {
		for _, peer := range peers {
			wantAll(t, peer, stuck)
		}
	})
	start := time.Now()
	left, err := f.Await(t.Context())
	if left != (Undelivered{}) || err != nil {
		t.Errorf("left %+v, %v", left, err)
	}
	if d := time.Since(start); d < late || d > 5*time.Second {
		t.Errorf("waited %v", d)
	}
	wantPending(t, &f, 2)
}

// TestAwaitEnds: where the context ends first, what is outstanding counts as undelivered, and the
// closes go on.
func TestAwaitEnds(t *testing.T) {
	t.Parallel()
	var f Flusher
	const n = many
	peers := addClosed(t, &f, n)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	left, err := f.Await(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || left.Conns != n || left.Bytes < n || left.Bytes > n*stuck {
		t.Errorf("left %+v, %v", left, err)
	}
	for _, peer := range peers {
		wantAll(t, peer, stuck)
	}
	if left, err := f.Await(t.Context()); left != (Undelivered{}) || err != nil {
		t.Errorf("in the end %+v, %v", left, err)
	}
}

// TestAwaitGivenUp: what is given up while Await waits counts, and nothing that was before.
func TestAwaitGivenUp(t *testing.T) {
	t.Parallel()
	f := untimed()
	addClosed(t, f, 1)
	f.GiveUp()
	peers := addClosed(t, f, 3)
	before := f.Counts()
	time.AfterFunc(20*time.Millisecond, func() {
		abort(t, peers[0])
		abort(t, peers[1])
		wantAll(t, peers[2], stuck)
	})
	left, err := f.Await(t.Context())
	after := f.Counts()
	if left.Conns != 2 || left.Bytes != int64(after.Bytes-before.Bytes) || left.Bytes == 0 || err != nil {
		t.Errorf("left %+v, %v; %d bytes counted", left, err, after.Bytes-before.Bytes)
	}
}
