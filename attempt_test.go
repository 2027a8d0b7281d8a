//go:build !plan9

package reuseport_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/reusetransport/reuseport"
)

// TestContextEndsOverTakenTuple: a dial waits for a close of ours to free the 4-tuple, and its
// context ends. The error has both.
func TestContextEndsOverTakenTuple(t *testing.T) {
	t.Parallel()
	var us, them reuseport.Transport
	listen(t, &us, "/ip4/127.0.0.1/tcp/0")
	l := listen(t, &them, "/ip4/127.0.0.1/tcp/0")
	c := dial(t, &us, l.Multiaddr())
	accept(t, l) // never reads, so that the close stays pending
	if err := c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, err := c.ReadFrom(zeros{})
	wantErr(t, err, os.ErrDeadlineExceeded)
	c.Close()
	ctx := reuseport.WithPortUse(shortly(t, 200*time.Millisecond), reuseport.RequireReuse)
	_, err = us.DialContext(ctx, l.Multiaddr())
	wantErr(t, err, context.DeadlineExceeded, reuseport.ErrTupleInUse)
}

// zeros has no end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }
