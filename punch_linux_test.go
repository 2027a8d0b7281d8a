package reuseport_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
)

// deafListener listens on all addresses of IPv4 and hears no SYN.
func deafListener(t *testing.T) (port uint16) {
	t.Helper()
	ret := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0} // of each segment 0 bytes pass
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var opt error
		err := c.Control(func(fd uintptr) {
			prog := unix.SockFprog{Len: 1, Filter: &ret}
			opt = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog)
		})
		return errors.Join(err, opt)
	}}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), "tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return uint16(portOf(l.Addr()))
}

// TestPunchBudgetCountsRepeats: what the kernel repeats of the SYNs of silent punches is
// not there for others. 40 silent ones send 200 SYNs in 5 s; of the 350 that all may
// send in that time 150 are left.
func TestPunchBudgetCountsRepeats(t *testing.T) {
	t.Parallel()
	a, deaf := newPuncher(t), deafListener(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5500*time.Millisecond)
	defer cancel()
	var punches sync.WaitGroup
	start := func(host byte, port uint16) {
		punches.Go(func() { a.Punch(ctx, tcpMultiaddr(netip.AddrFrom4([4]byte{127, 0, 4, host}), port)) })
	}
	for host := range byte(40) {
		start(host, deaf)
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

// TestPunchFreesPendingClose: a pending close of ours is out of a punch's way as it is
// out of a dial's.
func TestPunchFreesPendingClose(t *testing.T) {
	p := newClosePair(t, 0)
	talk(t, p.accepted)
	awaitUnread(t, p.dialed)
	if err := p.dialed.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	start := time.Now()
	c, err := p.dialer.Punch(ctx, p.target)
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
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0") // the Transport has another one
	time.AfterFunc(100*time.Millisecond, func() { l.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := tr.Punch(ctx, tcpMultiaddr(netip.MustParseAddr("127.0.0.1"), 1))
	wantErr(t, err, reuseport.ErrNoReuse)
	wantErr(t, err, syscall.ECONNREFUSED) // what the last dial returned
}

// TestPunchShutdown: Shutdown ends a punch whose SYN nothing answers.
func TestPunchShutdown(t *testing.T) {
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	failed := make(chan error)
	go func() {
		_, err := tr.Punch(ctx, tcpMultiaddr(netip.MustParseAddr("127.0.0.1"), deafListener(t)))
		failed <- err
	}()
	time.Sleep(200 * time.Millisecond)
	if err := tr.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	wantErr(t, <-failed, net.ErrClosed)
	if ctx.Err() != nil {
		t.Error("the punch went on until its context ended")
	}
}

// TestZoneBeyondLinks: a zone of an address that is not link-local says nothing; the
// peer's connection is found all the same.
func TestZoneBeyondLinks(t *testing.T) {
	var a, b reuseport.Transport
	l := listen(t, &a, "/ip6/::1/tcp/0")
	lb := listen(t, &b, "/ip6/::1/tcp/0")
	c := dial(t, &b, l.Multiaddr())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	got, err := a.Punch(ctx, parse(t, fmt.Sprintf("/ip6zone/lo/ip6/::1/tcp/%d", portOf(lb.Addr()))))
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

// TestListenPastDeadHandle: a wrapped listener that was closed behind our back is
// forgotten, so that two more on its address are handles of one socket.
func TestListenPastDeadHandle(t *testing.T) {
	var tr reuseport.Transport
	nl, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := tr.WrapListener(nl)
	if err != nil {
		t.Fatal(err)
	}
	if err := nl.Close(); err != nil {
		t.Fatal(err)
	}
	first := listen(t, &tr, wrapped.Multiaddr().String())
	second := listen(t, &tr, wrapped.Multiaddr().String())
	wantOneSocket(t, first, second)
	if n := tr.Stats().Listeners; n != 1 {
		t.Errorf("%d listeners", n)
	}
}

// TestDeadSocket: a socket that shutdown(2) has ended is dead for all its handles, and
// its port is not dialed from.
func TestDeadSocket(t *testing.T) {
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	listen(t, &tr, l.Multiaddr().String())
	raw, err := l.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RDWR) }); err != nil {
		t.Fatal(err)
	}
	_, err = l.Accept()
	wantErr(t, err, syscall.EINVAL)
	_, err = tr.DialContext(required(t), peer(t, "127.0.0.1:0"))
	wantErr(t, err, reuseport.ErrNoReuse)
	if n := tr.Stats().Listeners; n != 0 {
		t.Errorf("%d listeners", n)
	}
}

// TestIPv6BesideDual: beside our dual-stack listener one for IPv6 alone would get
// nothing; it is a handle of the same socket.
func TestIPv6BesideDual(t *testing.T) {
	var tr reuseport.Transport
	dual, err := tr.ListenPort(0)
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t, &tr, fmt.Sprintf("/ip6/::/tcp/%d", portOf(dual.Addr())))
	wantOneSocket(t, dual, l)
}

// wantOneSocket closes the first of two handles and sees that the second one accepts a
// connection that was there before.
func wantOneSocket(t *testing.T, first, second manet.Listener) {
	t.Helper()
	c, err := net.Dial("tcp", first.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	accept(t, second).Close()
}
