package reuseport_test

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/reusetransport/reuseport"
)

// TestPunchBudgetCountsRepeats: the kernel's repeats of unanswered SYNs are part of the budget of
// all punches. 40 punches that nobody answers send 200 SYNs in 5 s. That leaves others 150 of the
// 350 that all may send in that time.
func TestPunchBudgetCountsRepeats(t *testing.T) {
	long(t, "punches for 5 s")
	t.Parallel()
	a, silent := newPuncher(t), silentOn(t, netip.IPv4Unspecified())
	ctx := shortly(t, 5500*time.Millisecond)
	var punches sync.WaitGroup
	start := func(host byte, port uint16) {
		punches.Go(func() { a.Punch(ctx, tcpMultiaddr(netip.AddrFrom4([4]byte{127, 0, 4, host}), port)) })
	}
	for host := range byte(40) {
		start(host, silent)
	}
	time.Sleep(2 * time.Second)
	for host := range byte(8) {
		start(host, 1) // refused
	}
	time.Sleep(3 * time.Second)
	if n := a.Stats().PunchSYNs; n > 150 || n < 8 {
		t.Errorf("%d SYNs of the refused punches, want at most 150", n)
	}
	punches.Wait()
}

// TestPunchFreesPendingClose: a pending close of ours gives its 4-tuple up for a punch as it does
// for a dial.
func TestPunchFreesPendingClose(t *testing.T) {
	t.Parallel()
	p := newClosePair(t, 0)
	talk(t, p.accepted)
	awaitUnread(t, p.dialed)
	if err := p.dialed.Close(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	c, err := p.dialer.Punch(shortly(t, patience), p.target)
	if err != nil {
		t.Fatal(err)
	}
	c.Abort()
	if d := time.Since(start); d > time.Second/2 {
		t.Errorf("took %v", d)
	}
}

// TestPunchListenerClosed: no SYN leaves from a port that nobody listens on any more.
func TestPunchListenerClosed(t *testing.T) {
	t.Parallel()
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0") // the Transport has another one
	time.AfterFunc(100*time.Millisecond, func() { l.Close() })
	_, err := tr.Punch(shortly(t, patience), tcpMultiaddr(localhost, 1))
	wantErr(t, err, reuseport.ErrNoReuse, syscall.ECONNREFUSED) // the latter from the last dial
}

// TestPunchShutdown: Shutdown ends a punch whose SYN nothing answers.
func TestPunchShutdown(t *testing.T) {
	t.Parallel()
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	ctx, silent := shortly(t, 20*time.Second), silentListener(t)
	failed := make(chan error)
	go func() { _, err := tr.Punch(ctx, silent); failed <- err }()
	time.Sleep(200 * time.Millisecond)
	if err := tr.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	wantErr(t, <-failed, net.ErrClosed)
	if ctx.Err() != nil {
		t.Error("the punch went on until its context ended")
	}
}

// TestZoneBeyondLinks: the zone of an address that is not link-local has no meaning. A punch to
// it finds the peer's connection, and a dial to it connects.
func TestZoneBeyondLinks(t *testing.T) {
	var a, b reuseport.Transport
	l := listen(t, &a, "/ip6/::1/tcp/0")
	lb := listen(t, &b, "/ip6/::1/tcp/0")
	c := dial(t, &b, l.Multiaddr())
	got, err := a.Punch(shortly(t, patience), parse(t, fmt.Sprintf("/ip6zone/lo/ip6/::1/tcp/%d", portOf(lb.Addr()))))
	if err != nil {
		t.Fatal(err)
	}
	if got.Direction() != reuseport.Accepted || !got.RemoteMultiaddr().Equal(c.LocalMultiaddr()) {
		t.Errorf("%v from %v", got.Direction(), got.RemoteMultiaddr())
	}
	got.Abort() // frees the 4-tuple
	again, err := a.DialContext(required(t), parse(t, fmt.Sprintf("/ip6zone/lo/ip6/::/tcp/%d", portOf(lb.Addr()))))
	if err != nil {
		t.Fatal("[::] with a zone is loopback: ", err)
	}
	again.Close()
}
