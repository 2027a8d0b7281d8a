//go:build unix

package reuseport_test

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
)

// TestPunchBothSides: a punch from both sides at the same time brings one connection, and no
// Accept returns it. It is repeated so often that all orders of the SYNs occur: crossing, one
// first, and one first while nobody accepts.
func TestPunchBothSides(t *testing.T) {
	for _, accepting := range []bool{true, false} {
		name := map[bool]string{true: "Accept is called", false: "Accept is not called"}[accepting]
		t.Run(name, func(t *testing.T) {
			a, b := newPuncher(t), newPuncher(t)
			var stray [2]<-chan manet.Conn
			if accepting {
				stray = [2]<-chan manet.Conn{acceptAll(a.l), acceptAll(b.l)}
			}
			crossed := 0
			for range 100 {
				ca, cb := punchBoth(t, a, b)
				if ca.Direction() == reuseport.Accepted && cb.Direction() == reuseport.Accepted {
					t.Fatal("accepted on both sides")
				}
				if ca.Direction() == cb.Direction() {
					crossed++
				}
				wantJoined(t, ca, cb)
				abort(t, ca, cb)
			}
			t.Logf("%d of 100 were simultaneous opens, the others arrived at a listener", crossed)
			if len(stray[0])+len(stray[1]) > 0 {
				t.Error("Accept returned a connection of a punch")
			}
		})
	}
}

// punchBoth punches from both sides and delays their first SYNs until both are ready.
func punchBoth(t *testing.T, a, b *puncher) (ca, cb *reuseport.Conn) {
	t.Helper()
	var start, wg sync.WaitGroup
	start.Add(2)
	a.start.Store(&start)
	b.start.Store(&start)
	var errA, errB error
	wg.Go(func() { ca, errA = a.punch(b) })
	wg.Go(func() { cb, errB = b.punch(a) })
	wg.Wait()
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	return ca, cb
}

// TestPunchPublicPeer: a punch reaches a peer that listens and does not punch as a dial does.
func TestPunchPublicPeer(t *testing.T) {
	a, b := newPuncher(t), newPuncher(t)
	accepted := acceptAll(b.l)
	c := mustPunch(t, a, b)
	peer := (<-accepted).(*reuseport.Conn)
	wantJoined(t, c, peer)
	if c.Direction() != reuseport.Dialed || peer.Direction() != reuseport.Accepted || !c.Reused() {
		t.Errorf("%v, reused %v; peer %v", c.Direction(), c.Reused(), peer.Direction())
	}
	abort(t, c, peer)
}

// TestPunchTupleInUse: a connection that exists with the peer is not the result of a punch, but
// makes it fail.
func TestPunchTupleInUse(t *testing.T) {
	t.Parallel()
	a, b := newPuncher(t), newPuncher(t)
	accepted := acceptAll(b.l)
	c := mustPunch(t, a, b)
	peer := (<-accepted).(*reuseport.Conn)
	began := time.Now()
	_, err := a.punch(b)
	wantErr(t, err, reuseport.ErrTupleInUse)
	if took := time.Since(began); took > 4500*time.Millisecond {
		t.Errorf("found out after %v", took)
	}
	if s := a.Stats(); s.Punched != 1 || s.PunchesFailed != 1 {
		t.Errorf("%d punched, %d failed, want 1 and 1", s.Punched, s.PunchesFailed)
	}
	wantJoined(t, c, peer)
	abort(t, c, peer)
}

// TestPunchDeadline: a SYN that nothing answers stays in flight until the deadline, and the
// punch sends no other.
func TestPunchDeadline(t *testing.T) {
	t.Parallel()
	a := newPuncher(t)
	silent := silentListener(t)
	_, err := a.Punch(shortly(t, 300*time.Millisecond), silent)
	wantErr(t, err, context.DeadlineExceeded)
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "punch" || op.Source.String() != a.l.Addr().String() {
		t.Errorf("error %v does not name the punch and its addresses", err)
	}
	if got := a.Stats(); got.PunchSYNs != 1 || got.PunchesFailed != 1 {
		t.Errorf("%d SYNs, %d failed; want 1, 1", got.PunchSYNs, got.PunchesFailed)
	}
}

// TestPunchPacesRefusals: a peer that refuses gets at most 20 SYNs in the first second and 5 in
// each later one.
func TestPunchPacesRefusals(t *testing.T) {
	long(t, "punches for 2.5 s")
	t.Parallel()
	a, gone := newPuncher(t), newPuncher(t)
	target := gone.l.Multiaddr()
	if err := gone.l.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := a.Punch(shortly(t, 2500*time.Millisecond), target)
	wantErr(t, err, context.DeadlineExceeded)
	if got := a.Stats().PunchSYNs; got < 20 || got > 20+5*2 {
		t.Errorf("%d SYNs in 2.5 s, want 20 to 30", got)
	}
}

// TestPunchErrors: a punch that cannot begin says why.
func TestPunchErrors(t *testing.T) {
	a := newPuncher(t)
	for _, addr := range []string{"/dns4/localhost/tcp/1", "/ip4/127.0.0.1/udp/1", "/ip4/127.0.0.1", ""} {
		var m ma.Multiaddr
		if addr != "" {
			m = ma.StringCast(addr)
		}
		_, err := a.Punch(context.Background(), m)
		wantErr(t, err, reuseport.ErrWrongProto)
	}
	var none reuseport.Transport
	_, err := none.Punch(context.Background(), a.l.Multiaddr())
	wantErr(t, err, reuseport.ErrNoReuse)
	_, err = a.Punch(context.Background(), a.l.Multiaddr())
	wantErr(t, err, reuseport.ErrNoReuse) // from the listener's port to itself
	if err := none.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	_, err = none.Punch(context.Background(), a.l.Multiaddr())
	wantErr(t, err, net.ErrClosed)
}

// TestPunchLeaksNothing: punches leave no goroutine, whatever their outcome.
func TestPunchLeaksNothing(t *testing.T) {
	a, b := newPuncher(t), newPuncher(t)
	silent := silentListener(t)
	settled(t)
	before := runtime.NumGoroutine()
	for range 20 {
		ca, cb := punchBoth(t, a, b)
		abort(t, ca, cb)
		_, err := a.Punch(shortly(t, 5*time.Millisecond), silent)
		wantErr(t, err, context.DeadlineExceeded)
	}
	awaitAtMost(t, "goroutines", before, runtime.NumGoroutine)
}

// TestPunchCloseAtOnce: one side closes what it punched while the other may still be in connect.
// The other reads EOF. It is not reset, since it would then make a second connection, which waits
// for an Accept that nobody calls.
func TestPunchCloseAtOnce(t *testing.T) {
	a, b := newPuncher(t), newPuncher(t)
	for range rounds(200, 30) {
		var wg sync.WaitGroup
		wg.Go(func() {
			if c, err := a.punch(b); err != nil {
				t.Error(err)
			} else if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			c, err := b.punch(a)
			if err != nil {
				t.Error(err)
				return
			}
			c.SetReadDeadline(time.Now().Add(5 * time.Second))
			if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("read %d bytes, %v, want EOF", n, err)
			}
			c.Abort()
		})
		wg.Wait()
		if t.Failed() {
			return
		}
		awaitCloses(t, a.Transport)
	}
}
