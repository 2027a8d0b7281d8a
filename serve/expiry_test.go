//go:build !plan9

package serve_test

import (
	"net"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/serve"
)

func TestParkedIdleTimeout(t *testing.T) {
	for _, alone := range []bool{false, true} {
		p := newPair(t, alone, 20*time.Millisecond)
		p.park(t)
		wantEOF(t, p.client)
		p.gone(t, 0)
		if n := p.Stats().IdleTimeouts; n != 1 {
			t.Errorf("%d idle timeouts", n)
		}
	}
}

// After a timeout the one timer is set for the next deadline.
func TestIdleTimeoutsOneAfterAnother(t *testing.T) {
	s := &serve.Server{ParkNew: true, Handler: echo, IdleTimeout: 50 * time.Millisecond}
	l := running(t, s)
	var conns []net.Conn
	for range 3 {
		conns = append(conns, dial(t, l))
		time.Sleep(20 * time.Millisecond)
	}
	for _, c := range conns {
		wantEOF(t, c)
	}
	eventually(t, "all are counted", func() bool { return s.Stats().IdleTimeouts == 3 })
}

// Other code may close a connection while it is parked. Its slot is free soon after,
// and the handler is not called.
func TestParkedClosedElsewhere(t *testing.T) {
	parkedServer(t, func(t *testing.T, p *parkedPair) {
		p.park(t)
		if err := p.server.Close(); err != nil {
			t.Fatal(err)
		}
		p.gone(t, 0)
		wantEOF(t, p.client)
	})
}
