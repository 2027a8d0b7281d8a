package reuseport_test

import (
	"testing"
	"time"

	"github.com/reusetransport/reuseport"
)

// A 4-tuple that a live connection has is not waited for, though a close of it was lately.

// wantTaken dials raddr with RequireReuse and wants to hear soon that the 4-tuple is taken.
func wantTaken(t *testing.T, tr *reuseport.Transport, c *reuseport.Conn) {
	t.Helper()
	began := time.Now()
	_, err := tr.DialContext(required(t), c.RemoteMultiaddr())
	wantErr(t, err, reuseport.ErrTupleInUse)
	if took := time.Since(began); took > 500*time.Millisecond {
		t.Errorf("the dial waited %v for a 4-tuple that is not given up", took)
	}
}

// TestDialLiveAccepted: the peer has connected again.
func TestDialLiveAccepted(t *testing.T) {
	var us, them reuseport.Transport
	ours := listen(t, &us, "/ip4/127.0.0.1/tcp/0")
	listen(t, &them, "/ip4/127.0.0.1/tcp/0")
	connect := func() (theirs, accepted *reuseport.Conn) {
		c, err := them.DialContext(required(t), ours.Multiaddr())
		if err != nil {
			t.Fatal(err)
		}
		return c.(*reuseport.Conn), accept(t, ours)
	}
	theirs, accepted := connect()
	if _, err := theirs.Write([]byte("so that Close leaves it to the system")); err != nil {
		t.Fatal(err)
	}
	awaitUnread(t, accepted)
	if err := accepted.Close(); err != nil {
		t.Fatal(err)
	}
	wantDataThenEOF(t, theirs, nil)
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	theirs, accepted = connect()
	defer theirs.Close()
	wantTaken(t, &us, accepted)
}

// TestDialLiveAfterReset: the peer has reset the connection before, which the close did not see
// yet.
func TestDialLiveAfterReset(t *testing.T) {
	p := newClosePair(t, 0)
	if err := p.dialed.Close(); err != nil {
		t.Fatal(err)
	}
	abort(t, p.accepted)
	p.connect(t)
	if !p.dialed.Reused() {
		t.Fatal("not reused: ", p.dialed.Cause())
	}
	wantTaken(t, &p.dialer, p.dialed)
}
