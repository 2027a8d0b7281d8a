package reuseport_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/reusetransport/reuseport"
)

// TestShutdownWaits: Shutdown waits until the pending closes are delivered. If its context
// ends first, its error says what is not.
func TestShutdownWaits(t *testing.T) {
	t.Parallel()
	p := newClosePair(t, 0)
	bufferAll(t, p.dialed, 32<<20)
	if err := p.dialed.Close(); err != nil {
		t.Fatal(err)
	}
	err := p.dialer.Shutdown(shortly(t, 50*time.Millisecond))
	wantUndelivered(t, err)
	wantErr(t, err, context.DeadlineExceeded)
	go discard(p.accepted)
	if err := p.dialer.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown after delivery: %v", err)
	}
	wantDelivered(t, &p.dialer)
}

// wantUndelivered checks that err is of one connection that had more than 100 kB to deliver.
func wantUndelivered(t *testing.T, err error) {
	t.Helper()
	var undelivered *reuseport.UndeliveredError
	if !errors.As(err, &undelivered) || undelivered.Conns != 1 || undelivered.Bytes < 100_000 {
		t.Errorf("Shutdown: %v, want a connection with 100 kB undelivered", err)
	} else if want := fmt.Sprintf("1 connections closed with %d bytes undelivered", undelivered.Bytes); !strings.Contains(err.Error(), want) {
		t.Errorf("%q does not say %q", err, want)
	}
}

// TestShutdownTellsWhatWasCut: a close that is given up while Shutdown waits is in its error.
func TestShutdownTellsWhatWasCut(t *testing.T) {
	t.Parallel()
	p := newClosePair(t, 200*time.Millisecond)
	bufferAll(t, p.dialed, 32<<20)
	if err := p.dialed.Close(); err != nil {
		t.Fatal(err)
	}
	err := p.dialer.Shutdown(t.Context())
	wantUndelivered(t, err)
	if errors.Is(err, context.DeadlineExceeded) {
		t.Error("the context had not ended: ", err)
	}
}

// TestShutdownLeavesTalkers: a peer that has everything and goes on sending does not keep
// Shutdown waiting, and is not reset.
func TestShutdownLeavesTalkers(t *testing.T) {
	long(t, "waits 2 s for a talker")
	t.Parallel()
	p := newClosePair(t, 0)
	failed := talk(t, p.accepted)
	awaitUnread(t, p.dialed)
	if _, err := p.dialed.Write(pattern(1000)); err != nil {
		t.Fatal(err)
	}
	if err := p.dialed.Close(); err != nil {
		t.Fatal(err)
	}
	wantDataThenEOF(t, p.accepted, pattern(1000))
	ctx := shortly(t, 20*time.Second)
	if err := p.dialer.Shutdown(ctx); err != nil {
		t.Error("all was delivered: ", err)
	}
	if ctx.Err() != nil {
		t.Error("Shutdown waited for the talker")
	}
	select {
	case err := <-failed:
		t.Error("the peer was reset: ", err)
	case <-time.After(time.Second):
	}
}

// TestShutdownHears: Shutdown reads what a peer says, and still does not take it for silent: a
// peer that speaks every 100 ms is not reset.
func TestShutdownHears(t *testing.T) {
	long(t, "calls Shutdown for 3 s")
	t.Parallel()
	p := newClosePair(t, 0)
	failed := talk(t, p.accepted)
	awaitUnread(t, p.dialed)
	if err := p.dialed.Close(); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		p.dialer.Shutdown(ended) // nothing is undelivered
		time.Sleep(500 * time.Microsecond)
	}
	select {
	case err := <-failed:
		t.Error("a peer that spoke each 100 ms was reset: ", err)
	default:
	}
}

// TestShutdownLeavesDials: a dial under way when Shutdown is called connects, from the port of the
// listener that is gone.
func TestShutdownLeavesDials(t *testing.T) {
	raddr := peer(t, "127.0.0.1:0")
	dialing, shut := make(chan struct{}), make(chan struct{})
	tr := reuseport.Transport{ControlContext: func(context.Context, string, string, syscall.RawConn) error { // of dials alone
		close(dialing)
		<-shut
		return nil
	}}
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	go func() {
		<-dialing
		if err := tr.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		close(shut)
	}()
	c, err := tr.Dial(raddr)
	if err != nil {
		t.Fatal(err)
	}
	if c.LocalAddr().String() != l.Addr().String() {
		t.Errorf("from %v, want %v", c.LocalAddr(), l.Addr())
	}
	abort(t, c.(*reuseport.Conn))
}

// TestControlSeesSockets: Control sees one socket for the first handle of a listener and none for the
// second.
func TestControlSeesSockets(t *testing.T) {
	var sockets atomic.Int32
	tr := reuseport.Transport{Control: attempts(&sockets)}
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	listen(t, &tr, l.Multiaddr().String())
	if n := sockets.Load(); n != 1 {
		t.Errorf("Control was called %d times, want once", n)
	}
}

// TestShutdownClosesSourceSockets: after Shutdown a Transport keeps no socket, also not the
// one that has asked for a source address.
func TestShutdownClosesSourceSockets(t *testing.T) {
	if !apart(t) {
		return
	}
	raddr := peer(t, "127.0.0.1:0")
	settled(t)
	before := descriptors()
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/0.0.0.0/tcp/0")
	c := dialOnce(t, &tr, raddr)
	await(t, "the peer has accepted", func() bool { return descriptors() == before+3 }) // a listener and two ends
	held := descriptors()
	_, err := tr.DialContext(required(t), raddr) // asks whether the 4-tuple or the source is missing
	wantErr(t, err, reuseport.ErrTupleInUse)
	if n := descriptors(); n != held+1 {
		t.Fatalf("%d sockets are kept that asked for a source address, want 1", n-held)
	}
	abort(t, c)
	if err := tr.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	awaitAtMost(t, "descriptors", before, descriptors) // the peer's end takes its time
	runtime.KeepAlive(&tr)                             // or the garbage collector would close the socket
}
