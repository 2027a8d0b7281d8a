//go:build !plan9

package reuseport_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/reusetransport/reuseport"
)

// TestDialDeadline: a dial that nobody answers ends with context.DeadlineExceeded, whichever of
// its two timers is first, and whichever port it leaves from.
func TestDialDeadline(t *testing.T) {
	t.Parallel()
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	silent := silentListener(t)
	for range 50 {
		for _, use := range []reuseport.PortUse{reuseport.RequireReuse, reuseport.NewPort} {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Millisecond)
			_, err := tr.DialContext(reuseport.WithPortUse(ctx, use), silent)
			wantErr(t, err, context.DeadlineExceeded)
			if nerr, ok := errors.AsType[net.Error](err); !ok || !nerr.Timeout() {
				t.Errorf("error %v is no timeout", err)
			}
			cancel()
		}
	}
}
