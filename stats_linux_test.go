package reuseport_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/reusetransport/reuseport"
)

// TestCloseLatency: a close that delivers, one that is left to the system and one that the peer
// resets count once each. An Abort and a close that the system completes do not count.
func TestCloseLatency(t *testing.T) {
	const patience = 50 * time.Millisecond
	tr := reuseport.Transport{FlushTimeout: patience}
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	connect := func(write int) (*reuseport.Conn, net.Conn) {
		l, port := stuckPeer(t) // another one each time, or a dial would wait for the 4-tuple
		return writeTo(t, &tr, l, port, write)
	}
	for range 2 {
		c, _ := connect(1)
		mustClose(t, c)
	}
	stuck, _ := connect(64 << 10)
	mustClose(t, stuck)
	reset, end := connect(64 << 10)
	resetAll(t, []net.Conn{end})
	mustClose(t, reset)
	aborted, _ := connect(1)
	abort(t, aborted)
	filed, _ := connect(1)
	f, err := filed.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mustClose(t, filed)
	awaitCloses(t, &tr)

	s := tr.Stats()
	if s.ClosesAborted != 1 || s.ClosesReset != 1 {
		t.Fatalf("%d left, %d reset", s.ClosesAborted, s.ClosesReset)
	}
	took := s.CloseLatency
	if took.Delivered.Count != 2 || took.Delivered.Seconds > 2 {
		t.Errorf("%d delivered in %v s", took.Delivered.Count, took.Delivered.Seconds)
	}
	wantLatency(t, "left", took.Left, 1)
	wantLatency(t, "reset", took.Reset, 1)
	if took.Left.Seconds < patience.Seconds() {
		t.Errorf("left after %v s, FlushTimeout is %v", took.Left.Seconds, patience)
	}
}

func mustClose(t *testing.T, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}
