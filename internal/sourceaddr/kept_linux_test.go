package sourceaddr

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

var loopbacks = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.9:9"), netip.MustParseAddrPort("[::1]:9")}

func ask(t *testing.T, a *Asker) {
	t.Helper()
	for _, raddr := range loopbacks {
		if _, err := a.Source(t.Context(), raddr, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// TestKeepsOneSocketAFamily: many questions use two sockets, and Close closes them. A
// question after Close keeps none.
func TestKeepsOneSocketAFamily(t *testing.T) {
	before := descriptors(t)
	var a Asker
	for range 10 {
		ask(t, &a)
	}
	if n := descriptors(t) - before; n != 2 {
		t.Errorf("%d sockets are kept, want 2", n)
	}
	a.Close()
	if n := descriptors(t) - before; n != 0 {
		t.Errorf("%d sockets are left after Close", n)
	}
	ask(t, &a)
	if n := descriptors(t) - before; n != 0 {
		t.Errorf("%d sockets are kept after Close", n)
	}
}

// TestControlledSocketIsNotKept: a socket that a control function has seen is closed, also where
// that fails, and the one that is kept is not shown to it.
func TestControlledSocketIsNotKept(t *testing.T) {
	before := descriptors(t)
	var a Asker
	defer a.Close()
	refused := errors.New("refused")
	for _, want := range []error{nil, refused} {
		calls := 0
		control := func(string, string, syscall.RawConn) error { calls++; return want }
		if _, err := a.Source(t.Context(), loopbacks[0], control); !errors.Is(err, want) || calls == 0 {
			t.Errorf("%v after %d calls, want %v", err, calls, want)
		}
		if n := descriptors(t) - before; n != 0 {
			t.Errorf("%d sockets are left", n)
		}
	}
}

// TestKeepsOneOfMany: of the sockets of many questions at one time one of each family stays.
func TestKeepsOneOfMany(t *testing.T) {
	before := descriptors(t)
	var a Asker
	for range 20 {
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				if _, err := a.Source(t.Context(), loopbacks[0], nil); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	if n := descriptors(t) - before; n != 1 {
		t.Errorf("%d sockets are kept, want 1", n)
	}
	a.Close()
}

// TestCollected: an Asker that is never closed leaves nothing either.
func TestCollected(t *testing.T) {
	before := descriptors(t)
	ask(t, new(Asker))
	for deadline := time.Now().Add(10 * time.Second); descriptors(t) > before; {
		if time.Now().After(deadline) {
			t.Fatal("the sockets of a forgotten Asker stay open")
		}
		runtime.GC()
		time.Sleep(10 * time.Millisecond)
	}
}

// TestBrokenSocketIsNotKept: a socket that cannot answer is closed, and the question goes
// on by UDP.
func TestBrokenSocketIsNotKept(t *testing.T) {
	var a Asker
	defer a.Close()
	ask(t, &a)
	place := a.kept.of(loopbacks[0].Addr())
	place.Load().fd = -1
	ask(t, &a)
	if s := place.Load(); s != nil {
		t.Error("a socket that failed is kept")
	}
	ask(t, &a)
	if s := place.Load(); s == nil || s.fd < 0 {
		t.Error("no new socket after one that failed")
	}
}
