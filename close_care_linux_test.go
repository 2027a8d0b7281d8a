package reuseport_test

import (
	"io"
	"net"
	"os"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
)

// These tests look at how long Close cares for a connection whose peer has everything.

// TestCareEnds: a peer that has everything and never closes costs a descriptor for FlushTimeout,
// also if it goes on sending. Meanwhile no reset reaches it, nor afterwards if it is silent.
func TestCareEnds(t *testing.T) {
	long(t, "takes several seconds")
	if !apart(t) { // closes of earlier tests end within this one
		return
	}
	const care = 3 * time.Second
	want := viewsAfterNet(t, 10)
	settled(t)
	g := newClosing(t, &reuseport.Transport{FlushTimeout: care})
	for range 8 {
		g.add(t, g.dial, 10)
	}
	base := descriptors() - len(g.conns)
	g.closeAll(t)
	g.wantViews(t, want)
	talking, silent := g.peers[:4], g.peers[4:]
	start := time.Now()
	for time.Since(start) < care/2 {
		for _, p := range talking {
			if _, err := io.WriteString(p, "x"); err != nil {
				t.Fatalf("after %v: %v", time.Since(start), err)
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	if kept := descriptors() - base; kept != len(g.conns) {
		t.Errorf("after %v %d of %d descriptors", time.Since(start), kept, len(g.conns))
	}
	awaitAtMost(t, "descriptors", base, descriptors)
	if d := time.Since(start); d > 4*care {
		t.Errorf("the descriptors were kept for %v", d)
	}
	for _, p := range silent {
		if got := view(t, p.Conn); got != want[1] {
			t.Errorf("in the end the peer's socket shows %+v", got)
		}
	}
	wantReset(t, talking)
}

// wantReset writes to peers until each is reset.
func wantReset(t *testing.T, peers []plainPeer) {
	t.Helper()
	for _, p := range peers {
		await(t, "the reset", func() bool {
			_, err := io.WriteString(p, "x")
			return err != nil
		})
	}
}

// TestOtherTransportRedials: after FlushTimeout a closed connection whose peer is silent is in no
// other Transport's way, nor in that of another process.
func TestOtherTransportRedials(t *testing.T) {
	if b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_timestamps"); err != nil || string(b) == "0\n" {
		skip(t, "needs TCP timestamps: %q, %v", b, err)
	}
	first := reuseport.Transport{Shared: true, FlushTimeout: 50 * time.Millisecond}
	second := reuseport.Transport{Shared: true}
	addr := listen(t, &first, tcpMultiaddr(ownIP(), ownPort()).String()).Multiaddr()
	listen(t, &second, addr.String())
	raddr, ends := keepAccepting(t)
	var err error
	for range 10 {
		c := dialOnce(t, &first, raddr)
		if _, err := c.Write(pattern(10)); err != nil {
			t.Fatal(err)
		}
		old := <-ends
		settled(t)
		before := descriptors()
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		wantDataThenEOF(t, old, pattern(10))
		awaitAtMost(t, "descriptors", before-1, descriptors)
		var back manet.Conn
		await(t, "the 4-tuple", func() bool { // the acknowledgement of the FIN may be delayed
			back, err = second.DialContext(required(t), raddr)
			return err == nil
		})
		if err != nil {
			t.Fatal(err)
		}
		(<-ends).Close()
		abort(t, back.(*reuseport.Conn))
	}
}

// keepAccepting returns the address of a peer whose ends of connections stay open until the test
// ends.
func keepAccepting(t *testing.T) (raddr ma.Multiaddr, ends <-chan net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	accepted := make(chan net.Conn, 100)
	go acceptEach(l.Accept, func(c net.Conn) {
		t.Cleanup(func() { c.Close() })
		accepted <- c
	})
	return tcpMultiaddr(localhost, uint16(portOf(l.Addr()))), accepted
}

// TestManyTransportsShareDescriptors: the closes of many Transports leave an eighth of the
// process's descriptors alone.
func TestManyTransportsShareDescriptors(t *testing.T) {
	if !apart(t) {
		return
	}
	const limit, transports, closes = 256, 20, 12
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0") // what nobody accepts takes no descriptor
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range transports {
		tr := &reuseport.Transport{FlushTimeout: time.Minute}
		for range closes {
			c, err := tr.DialNetContext(t.Context(), "tcp4", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(c, "x"); err != nil {
				t.Fatal(err)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := descriptors(); n < limit/2 || n > limit-limit/8+3 { // those of the search among them
		t.Errorf("%d of %d descriptors", n, limit)
	}
}
