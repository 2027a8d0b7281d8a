//go:build unix

package reuseport_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/reusetransport/reuseport"
)

// TestPunchAdopts: a punch finds the peer's connection in the accept queue, between those of
// strangers, while nobody calls Accept. The strangers' are left for Accept.
func TestPunchAdopts(t *testing.T) {
	a, b := newPuncher(t), newPuncher(t)
	strangers := map[string]bool{}
	stranger := func() {
		strangers[dialPlain(t, a.l.Addr().String()).LocalAddr().String()] = true
	}
	stranger()
	peer := dial(t, b.Transport, a.l.Multiaddr())
	stranger()
	c := mustPunch(t, a, b)
	if c.Direction() != reuseport.Accepted {
		t.Errorf("direction %v, want accepted", c.Direction())
	}
	wantJoined(t, c, peer)
	for range 2 {
		s := accept(t, a.l)
		if !strangers[s.RemoteAddr().String()] {
			t.Errorf("Accept returned %v, want a stranger", s.RemoteAddr())
		}
		delete(strangers, s.RemoteAddr().String())
	}
	abort(t, c, peer)
}

// TestAcceptAfterPunch: a punch's look into the accept queue leaves no deadline behind: the next
// Accept waits.
func TestAcceptAfterPunch(t *testing.T) {
	a, b := newPuncher(t), newPuncher(t)
	peer := dial(t, b.Transport, a.l.Multiaddr())
	abort(t, mustPunch(t, a, b), peer)
	time.AfterFunc(10*time.Millisecond, func() { // longer than the look
		if c, err := net.Dial("tcp", a.l.Addr().String()); err == nil {
			c.Close()
		}
	})
	accept(t, a.l)
}

// TestPunchAdoptsKept: a connection that one punch took from the accept queue and kept for
// Accept is found by a later punch.
func TestPunchAdoptsKept(t *testing.T) {
	a, b, other := newPuncher(t), newPuncher(t), newPuncher(t)
	var peers [2]*reuseport.Conn
	for i, p := range []*puncher{other, b} { // other's waits before b's in the queue
		peers[i] = dial(t, p.Transport, a.l.Multiaddr())
	}
	first, second := mustPunch(t, a, b), mustPunch(t, a, other)
	wantJoined(t, first, peers[1])
	wantJoined(t, second, peers[0])
	abort(t, first, second, peers[0], peers[1])
}

// TestPunchLeavesOthersAlone: while a punch runs Accept returns all connections but that of the
// punch's peer.
func TestPunchLeavesOthersAlone(t *testing.T) {
	a, b := newPuncher(t), newPuncher(t)
	accepted := acceptAll(a.l)
	silent := silentListener(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error)
	go func() {
		_, err := a.Punch(ctx, silent)
		done <- err
	}()
	for range 20 {
		c := dialOnce(t, b.Transport, a.l.Multiaddr())
		got := (<-accepted).(*reuseport.Conn)
		wantJoined(t, c, got)
		abort(t, c, got)
	}
	cancel()
	wantErr(t, <-done, context.Canceled)
}

// TestPunchKeepsForLastClose: what a punch took from the accept queue and kept is reset with the
// last Close of the socket's handles, as the kernel does with its queue.
func TestPunchKeepsForLastClose(t *testing.T) {
	t.Parallel()
	a, b := newPuncher(t), newPuncher(t)
	second := listen(t, a.Transport, a.l.Multiaddr().String())
	stranger := dialPlain(t, a.l.Addr().String())
	peer := dialOnce(t, b.Transport, a.l.Multiaddr())
	abort(t, mustPunch(t, a, b), peer)
	if err := a.l.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := a.l.Accept() // the other handle's by now
	wantErr(t, err, net.ErrClosed)
	if err := stranger.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, err = stranger.Read(make([]byte, 1))
	if nerr, ok := errors.AsType[net.Error](err); !ok || !nerr.Timeout() {
		t.Errorf("the stranger reads %v while a handle is open, want a timeout", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if err := stranger.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	_, err = stranger.Read(make([]byte, 1))
	wantErr(t, err, syscall.ECONNRESET)
}

// TestPunchKeepsAtMost128: a punch takes 128 connections of strangers from the accept queue and
// leaves the rest there, also the peer's own. Once Accept has made room, a punch finds that one.
func TestPunchKeepsAtMost128(t *testing.T) {
	linuxOnly(t) // elsewhere the queue may be shorter
	t.Parallel()
	a, b := newPuncher(t), newPuncher(t)
	for range 128 {
		dialPlain(t, a.l.Addr().String())
	}
	peer := dialOnce(t, b.Transport, a.l.Multiaddr())
	if _, err := a.Punch(shortly(t, 300*time.Millisecond), b.l.Multiaddr()); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a punch for a peer behind 128 strangers: %v, want one that ends with its context", err)
	}
	accept(t, a.l)
	c := mustPunch(t, a, b)
	wantJoined(t, c, peer)
	for range 127 {
		accept(t, a.l)
	}
	abort(t, c, peer)
}

// TestPunchOnceAtATime: a second punch towards a peer fails while the first one runs.
func TestPunchOnceAtATime(t *testing.T) {
	a := newPuncher(t)
	silent := silentListener(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	errs := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := a.Punch(ctx, silent)
			errs <- err
		}()
	}
	wantErr(t, <-errs, reuseport.ErrTupleInUse)
	cancel()
	wantErr(t, <-errs, context.Canceled)
}

// TestPunchTransportLimit: of 80 punches of a Transport 48 run at one time, and all of them
// together send at most 100 SYNs and 50 a second.
func TestPunchTransportLimit(t *testing.T) {
	t.Parallel()
	a, gone := newPuncher(t), newPuncher(t)
	port := uint16(portOf(gone.l.Addr()))
	if err := gone.l.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	began, errs := time.Now(), make(chan error, 80)
	for host := range byte(80) {
		to := tcpMultiaddr(netip.AddrFrom4([4]byte{127, 0, 3, host + 1}), port)
		go func() { _, err := a.Punch(ctx, to); errs <- err }()
	}
	for range 80 - 48 { // the others go on until ctx ends
		wantErr(t, <-errs, reuseport.ErrPunchLimit)
	}
	await(t, "100 SYNs", func() bool { return a.Stats().PunchSYNs >= 100 })
	time.Sleep(500 * time.Millisecond)
	sent, most := a.Stats().PunchSYNs, 100+50*time.Since(began).Seconds()+5
	if float64(sent) > most {
		t.Errorf("%d SYNs in %v, want at most %.0f", sent, time.Since(began), most)
	}
	cancel()
	limited := 0
	for range 48 {
		err := <-errs
		wantErr(t, err, context.Canceled)
		if errors.Is(err, reuseport.ErrPunchLimit) {
			limited++
		}
	}
	if limited == 0 {
		t.Error("no error tells that the SYNs were spent")
	}
}

// TestPunchShared: under Shared the kernel gives the peer's connection to another Transport on
// the port, about every second time. The punch then says that the 4-tuple is taken, and the other
// Transport's Accept returns the connection.
func TestPunchShared(t *testing.T) {
	linuxOnly(t)
	long(t, "waits 2 s for the peer's connection")
	t.Parallel()
	first, second := &puncher{Transport: &reuseport.Transport{Shared: true}}, reuseport.Transport{Shared: true}
	first.l = listen(t, first.Transport, "/ip4/127.0.0.1/tcp/0")
	elsewhere := acceptAll(listen(t, &second, first.l.Multiaddr().String()))
	for range 50 {
		b := newPuncher(t)
		peer := dialOnce(t, b.Transport, first.l.Multiaddr())
		c, err := first.punch(b)
		if err == nil {
			wantJoined(t, c, peer)
			abort(t, c, peer)
			continue
		}
		wantErr(t, err, reuseport.ErrTupleInUse)
		wantJoined(t, <-elsewhere, peer)
		return
	}
	t.Error("the other Transport never got a connection in 50")
}
