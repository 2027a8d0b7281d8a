package sourceaddr

import (
	"net/netip"
	"os"
	"runtime"
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
