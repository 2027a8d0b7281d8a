package reuseport_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
)

// TestFINCounts: SIOCOUTQ counts a FIN as one byte until it is acknowledged.
func TestFINCounts(t *testing.T) {
	l, port := stuckPeer(t)
	c := dialPlain(t, netip.AddrPortFrom(localhost, port).String())
	end, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	before := outq(t, c)
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	after := outq(t, c)
	if err := end.Close(); err != nil { // its FIN acknowledges ours
		t.Fatal(err)
	}
	if _, err := io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	if n := outq(t, c); before != 0 || after != 1 || n != 0 {
		t.Errorf("before the FIN %d, after it %d, acknowledged %d", before, after, n)
	}
}

// TestCloseDiscardBound: a peer sends without end. 8 MiB are discarded after Close, and what
// was unread. Then the close ends.
func TestCloseDiscardBound(t *testing.T) {
	p := newClosePair(t, 2*time.Second)
	sent := make(chan int64)
	go func() {
		var n int64
		for {
			m, err := p.accepted.Write(pattern(1 << 20))
			if n += int64(m); err != nil {
				sent <- n
				return
			}
		}
	}()
	time.Sleep(100 * time.Millisecond) // until there is something unread
	if err := p.dialed.Close(); err != nil {
		t.Fatal(err)
	}
	if n := <-sent; n < 8<<20 || n > 64<<20 {
		t.Errorf("the peer sent %d MiB", n>>20)
	}
	wantDelivered(t, &p.dialer)
}

// TestCloseResetPastDiscardBound: a close whose peer has sent more than is discarded, and then
// resets, counts as one that the peer ended.
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
			if n > 6<<20 { // the rest goes into the buffers
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
	awaitCloses(t, &p.dialer)
	if s := p.dialer.Stats(); s.ClosesReset != 1 || s.ClosesAborted != 0 {
		t.Errorf("%d reset, %d aborted, %d pending", s.ClosesReset, s.ClosesAborted, s.ClosesPending)
	}
}

// TestCloseShutWindow: Close waits for a FIN that waits behind a shut window. A peer that reads
// late reads EOF, and not ECONNRESET.
func TestCloseShutWindow(t *testing.T) {
	t.Parallel()
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	c, end, window := shutWindow(t, &tr)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1500 * time.Millisecond) // longer than a silent peer is given
	wantDataThenEOF(t, end, pattern(window))
	wantDelivered(t, &tr)
}

// TestCloseDoesNotLinger: after SetLinger(3) Close does not wait for a peer that cannot take the
// FIN.
func TestCloseDoesNotLinger(t *testing.T) {
	t.Parallel()
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	c, _, _ := shutWindow(t, &tr)
	if err := c.SetLinger(3); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := c.Close(); err != nil || time.Since(start) > time.Second {
		t.Errorf("Close took %v: %v", time.Since(start), err)
	}
}

// shutWindow connects tr to a peer that reads nothing, and writes exactly as much as the peer's
// window takes: all of it is acknowledged, and not even a FIN may leave.
func shutWindow(t *testing.T, tr *reuseport.Transport) (c *reuseport.Conn, end net.Conn, window int) {
	t.Helper()
	l, port := stuckPeer(t)
	const tooMuch = 64 << 10
	c, end = writeTo(t, tr, l, port, tooMuch)
	time.Sleep(100 * time.Millisecond) // until the window is full
	window = tooMuch - outq(t, c)
	if err := errors.Join(c.Abort(), end.Close()); err != nil {
		t.Fatal(err)
	}
	c, end = writeTo(t, tr, l, port, window)
	awaitAtMost(t, "bytes not acknowledged", 0, func() int { return outq(t, c) })
	return c, end, window
}

// TestCloseAmidUpload: a server that answers and closes before it has read a request does not
// reset a client that still sends it.
func TestCloseAmidUpload(t *testing.T) {
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	for range 20 {
		client := dialPlain(t, l.Addr().String())
		served := accept(t, l)
		sent := make(chan error, 1)
		go func() { _, err := client.Write(pattern(8 << 20)); sent <- err }()
		if _, err := io.ReadFull(served, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		awaitUnread(t, served)
		<-writeThenClose(t, served, []byte("too large"))
		if err := <-sent; err != nil {
			t.Fatal("while sending: ", err)
		}
		wantDataThenEOF(t, client, []byte("too large"))
	}
}

// TestCloseKeepsDescriptor: which closes keep a descriptor. The system does the rest for an
// accepted connection of a local client once all that was written has left, if the client has
// spoken and was heard, or if neither side has said a word.
func TestCloseKeepsDescriptor(t *testing.T) {
	nothing := func(*testing.T, *reuseport.Conn, *reuseport.Conn) {}
	speak := func(t *testing.T, c, peer *reuseport.Conn) {
		if _, err := peer.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		awaitUnread(t, c)
	}
	ask := func(t *testing.T, c, peer *reuseport.Conn) {
		speak(t, c, peer)
		if _, err := io.ReadFull(c, make([]byte, len("hello"))); err != nil {
			t.Fatal(err)
		}
	}
	greet := func(t *testing.T, c, peer *reuseport.Conn) {
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		awaitUnread(t, peer)
	}
	for name, row := range map[string]struct {
		dialed bool
		before func(t *testing.T, c, peer *reuseport.Conn)
		want   bool
	}{
		"dialed, nothing said":     {true, nothing, true},
		"dialed, peer was heard":   {true, ask, true},
		"accepted, nothing said":   {false, nothing, false},
		"accepted, peer was told":  {false, greet, true},
		"accepted, unread":         {false, speak, true},
		"accepted, peer was heard": {false, ask, false},
		"accepted, peer does not read": {false, func(t *testing.T, c, peer *reuseport.Conn) {
			ask(t, c, peer)
			bufferAll(t, c, 64<<20)
		}, true},
	} {
		p := newClosePair(t, 0)
		c, peer := p.accepted, p.dialed
		if row.dialed {
			c, peer = peer, c
		}
		row.before(t, c, peer)
		if got := keepsDescriptor(t, c); got != row.want {
			t.Errorf("%s: keeps a descriptor: %v, want %v", name, got, row.want)
		}
	}
}

// TestClosePunchedKeepsDescriptor: a punched connection may be dialed again, whichever side's SYN
// was first.
func TestClosePunchedKeepsDescriptor(t *testing.T) {
	a, b := newPuncher(t), newPuncher(t)
	dialed, err := a.Dial(b.l.Multiaddr()) // waits in b's accept queue
	if err != nil {
		t.Fatal(err)
	}
	defer dialed.Close()
	c := mustPunch(t, b, a)
	if c.Direction() != reuseport.Accepted {
		t.Fatal(c.Direction())
	}
	if _, err := dialed.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, len("hello"))); err != nil {
		t.Fatal(err)
	}
	if !keepsDescriptor(t, c) {
		t.Error("no descriptor is kept")
	}
}

// TestCloseServedElsewhere: a served connection keeps a descriptor where its peer is not on
// loopback, and where there are no timestamps.
func TestCloseServedElsewhere(t *testing.T) {
	t.Parallel()
	if !alone(t) {
		return
	}
	if keepsDescriptor(t, served(t, "127.0.0.1")) {
		t.Error("a descriptor is kept on loopback")
	}
	if !keepsDescriptor(t, served(t, "10.0.0.1")) {
		t.Error("no descriptor is kept beyond loopback")
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/tcp_timestamps", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	if !keepsDescriptor(t, served(t, "127.0.0.1")) {
		t.Error("no descriptor is kept without timestamps")
	}
}

// served returns an accepted connection of a client on ip that has asked and was heard.
func served(t *testing.T, ip string) *reuseport.Conn {
	t.Helper()
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/"+ip+"/tcp/0")
	client := dialPlain(t, l.Addr().String())
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	c := accept(t, l)
	if _, err := io.ReadFull(c, make([]byte, len("hello"))); err != nil {
		t.Fatal(err)
	}
	return c
}

// keepsDescriptor closes c and reports whether the process still has a descriptor of its socket.
func keepsDescriptor(t *testing.T, c *reuseport.Conn) bool {
	t.Helper()
	var socket string
	onSocket(t, c, func(fd int) (err error) {
		socket, err = os.Readlink(fmt.Sprint("/proc/self/fd/", fd))
		return err
	})
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		link, err := os.Readlink("/proc/self/fd/" + e.Name())
		return err == nil && link == socket
	})
}

// TestSetLingerReadsBack: more than zero is not what the system gets, because its close would wait.
func TestSetLingerReadsBack(t *testing.T) {
	p := newClosePair(t, 0)
	for _, row := range []struct {
		sec  int
		want unix.Linger
	}{{3, unix.Linger{}}, {0, unix.Linger{Onoff: 1}}, {1, unix.Linger{}}, {0, unix.Linger{Onoff: 1}}, {-1, unix.Linger{}}} {
		if err := p.dialed.SetLinger(row.sec); err != nil {
			t.Fatal(err)
		}
		onSocket(t, p.dialed, func(fd int) error {
			got, err := unix.GetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER)
			if err == nil && *got != row.want {
				t.Errorf("after SetLinger(%d): %+v", row.sec, *got)
			}
			return err
		})
	}
}
