//go:build unix && !aix

package flush

import (
	"net"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/internal/sockopt"
)

// TestGiveUpWhileOthersWork: connections that somebody else works on can be given up a moment
// later, or free a descriptor by then.
func TestGiveUpWhileOthersWork(t *testing.T) {
	for why, finish := range map[string]func(*Flusher, *Closing){
		"kept":  func(f *Flusher, c *Closing) { f.mu.Lock(); c.claimed = false; f.mu.Unlock() },
		"ended": func(f *Flusher, c *Closing) { f.end(c, status{}, done) },
	} {
		t.Run(why, func(t *testing.T) {
			var f Flusher
			c := &Closing{FD: connectedSocket(t)}
			f.pending, c.claimed = []*Closing{c}, true
			time.AfterFunc(3*time.Millisecond, func() { finish(&f, c) })
			if n := f.GiveUp(); n != 1 {
				t.Errorf("%d descriptors freed, want 1", n)
			}
			if len(f.pending) != 0 {
				t.Error("it is still pending")
			}
		})
	}
}

// TestSweepIgnoresClaimed: a sweep does not come back at once for a connection that is due and
// that somebody else works on.
func TestSweepIgnoresClaimed(t *testing.T) {
	var f Flusher
	now := time.Now()
	f.pending = []*Closing{{claimed: true, due: now}}
	f.sweep()
	if f.armed {
		t.Error("the timer is armed for it")
	}
	later := now.Add(time.Hour)
	f.pending = append(f.pending, &Closing{due: later.Add(1)}, &Closing{due: later})
	f.sweep()
	if !f.armed || !f.next.Equal(later) {
		t.Errorf("armed %v for %v, want %v", f.armed, f.next, later)
	}
	f.timer.Stop()
}

// connectedSocket returns a descriptor of a connection on loopback. It is the caller's to close.
func connectedSocket(t *testing.T) (fd uintptr) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var dupErr error
	if err := raw.Control(func(own uintptr) { fd, dupErr = sockopt.Dup(own) }); err != nil || dupErr != nil {
		t.Skip("no second descriptor on this system: ", err, dupErr)
	}
	return fd
}
