package reuseport_test

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
)

// TestLingerZero: connections that use a listening port, dialed or accepted, have SO_LINGER 0.
// One from an ephemeral port does not.
func TestLingerZero(t *testing.T) {
	for _, shared := range []bool{false, true} {
		us, them := reuseport.Transport{Shared: shared}, reuseport.Transport{Shared: shared}
		listen(t, &us, "/ip4/127.0.0.1/tcp/0")
		l := listen(t, &them, "/ip4/127.0.0.1/tcp/0")
		out := dial(t, &us, l.Multiaddr())
		for name, c := range map[string]*reuseport.Conn{"dialed": out, "accepted": accept(t, l)} {
			if zero, err := lingersZero(c); err != nil || !zero {
				t.Errorf("shared %t: %s connection lingers zero: %t (%v)", shared, name, zero, err)
			}
		}
		second := dial(t, &us, l.Multiaddr())
		if zero, err := lingersZero(second); err != nil || second.Reused() || zero {
			t.Errorf("fallback: reused %t, lingers zero: %t (%v)", second.Reused(), zero, err)
		}
	}
}

// TestKeepAliveConfig: every connection has the keep-alive that the user asks for, one from a
// second handle of a listener too.
func TestKeepAliveConfig(t *testing.T) {
	tr := reuseport.Transport{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 7 * time.Second, Interval: 3 * time.Second, Count: 4,
	}}
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	again := listen(t, &tr, l.Multiaddr().String())
	want := [4]int{1, 7, 3, 4}
	for what, c := range map[string]net.Conn{
		"from an ephemeral port": dial(t, &tr, l.Multiaddr()), // to itself
		"accepted":               accept(t, l),
		"from a listening port":  dial(t, &tr, peer(t, "127.0.0.1:0")),
	} {
		if got := keepAlive(t, c); got != want {
			t.Errorf("%s: on, idle, interval, count: %v, want %v", what, got, want)
		}
	}
	dial(t, &tr, l.Multiaddr())
	if got := keepAlive(t, accept(t, again)); got != want {
		t.Errorf("second handle: on, idle, interval, count: %v, want %v", got, want)
	}
}

// TestKeepAliveIsNets: a connection has the keep-alive of one that package net dialed or
// accepted, whichever way it came about.
func TestKeepAliveIsNets(t *testing.T) {
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	out := dialPlain(t, plain.Addr().String())
	in, err := plain.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	dialed, accepted := keepAlive(t, out), keepAlive(t, in)

	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	fresh := dial(t, &tr, l.Multiaddr()) // to itself: from an ephemeral port
	reused := dial(t, &tr, tcpMultiaddr(localhost, uint16(portOf(plain.Addr()))))
	if fresh.Reused() || !reused.Reused() {
		t.Fatal("the dials left from other ports than they should")
	}
	for what, pair := range map[string][2][4]int{
		"dialed, ephemeral port": {keepAlive(t, fresh), dialed},
		"dialed, listening port": {keepAlive(t, reused), dialed},
		"accepted":               {keepAlive(t, accept(t, l)), accepted},
	} {
		if got, want := pair[0], pair[1]; got != want || want[0] != 1 {
			t.Errorf("%s: on, idle, interval, count: %v, want %v", what, got, want)
		}
	}
}

// keepAlive returns whether keep-alive is on, when it starts, its interval and its count.
func keepAlive(t *testing.T, c net.Conn) (got [4]int) {
	t.Helper()
	for i, opt := range [4][2]int{{unix.SOL_SOCKET, unix.SO_KEEPALIVE}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT}} {
		onSocket(t, c, func(fd int) (err error) {
			got[i], err = unix.GetsockoptInt(fd, opt[0], opt[1])
			return err
		})
	}
	return got
}

// TestDeadSocketLeaves: after its socket has died a listener's Accept ends, and dials do not
// use the port any more.
func TestDeadSocketLeaves(t *testing.T) {
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	shutSocket(t, l)
	_, err := l.Accept()
	wantErr(t, err, syscall.EINVAL)
	if n := tr.Stats().Listeners; n != 0 {
		t.Errorf("%d listeners", n)
	}
	c := dial(t, &tr, peer(t, "127.0.0.1:0"))
	if c.Reused() || c.Cause() != reuseport.NoListener {
		t.Errorf("reused %t: %v", c.Reused(), c.Cause())
	}
}

// TestListenerLog: the death of a listener is logged, and its Close is not. Of a burst of accepts
// that wait the first is logged.
func TestListenerLog(t *testing.T) {
	if !apart(t) {
		return // what other tests have left frees descriptors
	}
	var log lockedBuffer
	tr := reuseport.Transport{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	closed := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	time.AfterFunc(10*time.Millisecond, func() { closed.Close() })
	_, err := closed.Accept()
	wantErr(t, err, net.ErrClosed)
	if s := log.String(); s != "" {
		t.Errorf("logged %q after Close", s)
	}
	dead := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	shutSocket(t, dead)
	for range 2 {
		_, err = dead.Accept()
		wantErr(t, err, syscall.EINVAL)
	}
	log.wantOne(t, "level=WARN", "listener died", "laddr="+dead.Addr().String(), "err=")
	waits := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	log.Reset()
	accepted := make(chan error, 1)
	withSpareDescriptors(t, 1, func() { // connect gets it, and Accept none
		connectRaw(t, waits.Addr().(*net.TCPAddr))
		go func() {
			c, err := waits.Accept()
			if err == nil {
				err = c.Close()
			}
			accepted <- err
		}()
		await(t, "Accept waits for the third time", func() bool { return tr.Stats().AcceptDelayed >= 3 })
	})
	if err := <-accepted; err != nil {
		t.Error(err)
	}
	log.wantOne(t, "level=WARN", "accept waits", "laddr="+waits.Addr().String(), "err=")
}

// A lockedBuffer is what a Logger writes to.
type lockedBuffer struct {
	mu sync.Mutex
	strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Builder.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Builder.String()
}

// wantOne checks that each of words was logged once.
func (b *lockedBuffer) wantOne(t *testing.T, words ...string) {
	t.Helper()
	s := b.String()
	for _, w := range words {
		if strings.Count(s, w) != 1 {
			t.Errorf("logged %q, want one %s", s, w)
		}
	}
}

// TestListenerFile: the descriptor that File returns and the listener do not affect each other.
// Each accepts after the other is closed.
func TestListenerFile(t *testing.T) {
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	fileListener(t, l).Close()
	dialPlain(t, l.Addr().String())
	accept(t, l)
	other := fileListener(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	out := dialPlain(t, other.Addr().String())
	in, err := other.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	wantJoined(t, out, in)
}

// fileListener makes a listener of what File returns.
func fileListener(t *testing.T, l manet.Listener) net.Listener {
	t.Helper()
	f, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	nl, err := net.FileListener(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nl.Close() })
	return nl
}
