package reuseport_test

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
)

// elsewhere calls f on a thread in a network namespace of its own, whose loopback interface has
// the addresses of 198.51.100.0/24. To a Transport these are global.
func elsewhere(t *testing.T, f func()) {
	t.Helper()
	denied := make(chan error)
	go func() {
		runtime.LockOSThread() // and no unlock: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			if err = setLoopback([]byte{198, 51, 100, 1}); err == nil {
				f()
			}
		}
		denied <- err
	}()
	if err := <-denied; err != nil {
		skip(t, "needs root: %v", err)
	}
}

// netnsOf returns the network namespace of the calling thread.
func netnsOf(t *testing.T) uint64 {
	t.Helper()
	var s unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &s); err != nil {
		t.Error(err)
	}
	return s.Ino
}

// TestDialsStayInNamespace: a dial from a thread that has its own network namespace makes all
// its sockets there: it is not hedged, and the addresses of a name are dialed one after the other.
func TestDialsStayInNamespace(t *testing.T) {
	resolveBy(t, "198.51.100.2", "198.51.100.1")
	elsewhere(t, func() {
		home := netnsOf(t)
		tr := reuseport.Transport{
			HedgeDelay: 20 * time.Millisecond, FallbackDelay: 20 * time.Millisecond,
			Control: func(string, string, syscall.RawConn) error {
				if netnsOf(t) != home {
					t.Error("a socket in another network namespace")
				}
				return nil
			},
		}
		l, err := tr.Listen(parse(t, "/ip4/0.0.0.0/tcp/0"))
		if err != nil {
			t.Error(err)
			return
		}
		defer l.Close()
		silent := silentOn(t, netip.MustParseAddr("198.51.100.2"))
		if c, err := tr.DialNetContext(shortly(t, 300*time.Millisecond), "tcp", fmt.Sprint("198.51.100.2:", silent)); err == nil {
			t.Error("connected to ", c.RemoteAddr())
		}
		live, err := net.Listen("tcp4", fmt.Sprint("198.51.100.1:", silent))
		if err != nil {
			t.Error(err)
			return
		}
		defer live.Close()
		c, err := tr.DialNetContext(shortly(t, 6*time.Second), "tcp", fmt.Sprint("peer.test:", silent))
		if err != nil {
			t.Error(err)
			return
		}
		abort(t, c.(*reuseport.Conn))
		if n := tr.Stats().Hedges; n != 0 {
			t.Errorf("%d hedges", n)
		}
	})
}
