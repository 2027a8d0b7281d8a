package reuseport_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
)

// required asks for a dial that fails where it cannot reuse a port.
func required(t testing.TB) context.Context {
	return reuseport.WithPortUse(t.Context(), reuseport.RequireReuse)
}

// dialAgain dials with RequireReuse and resets what it gets.
func dialAgain(t *testing.T, p *closePair) {
	t.Helper()
	c, err := p.dialer.DialContext(required(t), p.target)
	if err != nil {
		t.Fatal("redial: ", err)
	}
	accept(t, p.listener).Abort()
	c.(*reuseport.Conn).Abort()
}

// closeUnread closes c, which its peer has told something that nobody reads, so that
// the close is not over at once.
func closeUnread(t *testing.T, tr *reuseport.Transport, c, peer *reuseport.Conn) {
	t.Helper()
	if _, err := peer.Write([]byte("unread")); err != nil {
		t.Fatal(err)
	}
	awaitUnread(t, c)
	pending := tr.Stats().ClosesPending
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if n := tr.Stats().ClosesPending; n != pending+1 {
		t.Fatalf("%d pending closes, want %d", n, pending+1)
	}
}

// awaitUnread waits until something that nobody has read has come in.
func awaitUnread(t *testing.T, c *reuseport.Conn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		n := 0
		if err := raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("nothing came in")
}

// TestRedialPastStaleClose: of two pending closes of one 4-tuple the first, whose peer
// has ended it, holds the 4-tuple no more; a redial frees the second.
func TestRedialPastStaleClose(t *testing.T) {
	for name, end := range map[string]func(*reuseport.Conn) error{
		"reset": (*reuseport.Conn).Abort,
		"close": func(c *reuseport.Conn) error {
			_, err := io.ReadAll(c)
			return errors.Join(err, c.TCPConn.SetLinger(-1), c.TCPConn.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newClosePair(t, 0)
			for range 5 {
				closeUnread(t, &p.dialer, p.dialed, p.accepted)
				time.Sleep(150 * time.Millisecond) // looks are 64 ms apart by now
				if err := end(p.accepted); err != nil {
					t.Fatal(err)
				}
				if p.connect(t); !p.dialed.Reused() {
					t.Fatal("not reused: ", p.dialed.Cause())
				}
				closeUnread(t, &p.dialer, p.dialed, p.accepted)
				dialAgain(t, p)
				p.accepted.Abort()
				awaitCloses(t, &p.dialer)
				p.connect(t)
			}
		})
	}
}

// TestRedialFreesOneTuple: a redial from a wildcard listener frees the close on the
// address that it leaves from, and not one on another address of the host.
func TestRedialFreesOneTuple(t *testing.T) {
	var us, peer reuseport.Transport
	l := listen(t, &us, "/ip4/0.0.0.0/tcp/0")
	remote := listen(t, &peer, "/ip4/127.0.0.9/tcp/0")
	there, err := peer.DialContext(required(t), tcpMultiaddr(netip.MustParseAddr("127.0.0.2"), uint16(portOf(l.Addr()))))
	if err != nil {
		t.Fatal(err)
	}
	in := accept(t, l) // from the address that we dial
	out := dial(t, &us, remote.Multiaddr())
	far := accept(t, remote)
	closeUnread(t, &us, in, there.(*reuseport.Conn))
	closeUnread(t, &us, out, far)
	c, err := us.DialContext(required(t), remote.Multiaddr())
	if err != nil {
		t.Fatal("redial: ", err)
	}
	defer c.Close()
	if n := us.Stats().ClosesPending; n != 1 {
		t.Errorf("%d pending closes, want the one on the other address", n)
	}
	for range 2 { // a reset shows on the second Write
		if _, err := there.Write([]byte("more")); err != nil {
			t.Errorf("the close on the other address: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestRedialFreesHeldClose: a close that found no descriptor is out of the way, too.
func TestRedialFreesHeldClose(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	p := newClosePair(t, 0)
	for range 10 {
		if _, err := p.accepted.Write([]byte("unread")); err != nil {
			t.Fatal(err)
		}
		awaitUnread(t, p.dialed)
		closeWithoutDescriptors(t, p.dialed, limit)
		if n := p.dialer.Stats().ClosesPending; n != 1 {
			t.Fatalf("%d pending closes", n)
		}
		dialAgain(t, p)
		p.connect(t)
	}
}

// closeFullTable closes bound connections: the first to a peer that reads all the
// time, for 10 s and more, the others to one that does not. It returns what ends the
// first one's peer.
func closeFullTable(t *testing.T, tr *reuseport.Transport, l *net.TCPListener, bound int) <-chan error {
	t.Helper()
	const size = 100 << 10
	port := uint16(portOf(l.Addr()))
	c, end := writeTo(t, tr, l, port, 0)
	if err := c.SetWriteBuffer(4 * size); err != nil {
		t.Fatal(err)
	}
	<-writeThenClose(t, c, pattern(size))
	met := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, slowly(end, 20<<10, 2*time.Second))
		met <- err
	}()
	ends := closeStuck(t, tr, l, port, bound-1)
	t.Cleanup(func() { resetAll(t, ends) })
	return met
}

// TestEvictOnlyWhenFull: while a sweep cuts 4,096 closes that are stuck, others take
// the places that it has made. A close that makes progress does not have to go.
func TestEvictOnlyWhenFull(t *testing.T) {
	const bound, closers = 4096, 256
	tr := reuseport.Transport{FlushTimeout: 6 * time.Second}
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	var peer reuseport.Transport
	remote, err := peer.ListenPort(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remote.Close() })
	conns := manyUnread(t, &tr, remote, closers)
	l, _ := stuckPeer(t)
	met := closeFullTable(t, &tr, l, bound)
	if s := tr.Stats(); s.ClosesPending != bound || s.ClosesAborted != 0 {
		skip(t, "too slow: %d pending, %d aborted", s.ClosesPending, s.ClosesAborted)
	}
	for i, c := range conns { // each takes a place that is free
		for tr.Stats().ClosesAborted <= uint64(i) {
			time.Sleep(20 * time.Microsecond)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	select {
	case err := <-met:
		t.Error("the close that made progress: ", err)
	case <-time.After(time.Second):
	}
}

// manyUnread dials n connections from ephemeral ports whose peer says something.
func manyUnread(t *testing.T, tr *reuseport.Transport, l manet.Listener, n int) []*reuseport.Conn {
	t.Helper()
	ctx := reuseport.WithPortUse(t.Context(), reuseport.NewPort)
	conns := make([]*reuseport.Conn, n)
	for i := range conns {
		c, err := tr.DialContext(ctx, tcpMultiaddr(netip.MustParseAddr("127.0.0.1"), uint16(portOf(l.Addr()))))
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*reuseport.Conn)
		end := accept(t, l)
		if _, err := end.Write([]byte("unread")); err != nil {
			t.Fatal(err)
		}
		awaitUnread(t, conns[i])
	}
	return conns
}

// talk lets c send a byte each 100 ms until it fails or the test ends.
func talk(t *testing.T, c *reuseport.Conn) <-chan error {
	failed := make(chan error, 1)
	go func() {
		for {
			if _, err := c.Write([]byte("x")); err != nil {
				failed <- err
				return
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-t.Context().Done():
				failed <- nil
				return
			}
		}
	}()
	return failed
}

// TestShutdownLeavesTalkers: a peer that has all and goes on sending does not keep
// Shutdown waiting, and is not reset.
func TestShutdownLeavesTalkers(t *testing.T) {
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
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := p.dialer.Shutdown(ctx); err != nil {
		t.Error("all was delivered: ", err)
	}
	if ctx.Err() != nil {
		t.Error("Shutdown waited for the talker")
	}
	select {
	case err := <-failed:
		t.Error("the peer was cut: ", err)
	case <-time.After(time.Second):
	}
	if n := p.dialer.Stats().ClosesPending; n != 1 {
		t.Errorf("%d pending closes, want the talker's", n)
	}
}

// TestShutdownHears: a peer is not taken for silent because Shutdown read what it said.
func TestShutdownHears(t *testing.T) {
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
		t.Error("a peer that spoke each 100 ms was cut: ", err)
	default:
	}
}

// TestCloseResetPastDiscardBound: a peer that has sent more than is read of it, and
// then resets, has cut the close.
func TestCloseResetPastDiscardBound(t *testing.T) {
	p := newClosePair(t, time.Minute)
	bufferAll(t, p.dialed, 32<<20)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for n := 0; ; {
			m, err := p.accepted.Write(pattern(1 << 20))
			if n += m; err != nil {
				return
			}
			if n > 250<<20 { // the rest goes into the buffers
				p.accepted.SetWriteDeadline(time.Now().Add(time.Second))
			}
		}
	}()
	if err := p.dialed.Close(); err != nil {
		t.Fatal(err)
	}
	<-sent
	if err := p.accepted.Abort(); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		if p.dialer.Stats().ClosesPending == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if s := p.dialer.Stats(); s.ClosesReset != 1 || s.ClosesAborted != 0 {
		t.Errorf("%d reset, %d aborted, %d pending", s.ClosesReset, s.ClosesAborted, s.ClosesPending)
	}
}
