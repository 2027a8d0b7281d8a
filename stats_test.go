//go:build !plan9

package reuseport_test

import (
	"testing"

	"github.com/reusetransport/reuseport"
)

// TestStatsCount: a listener, a connection from each side and a refused dial are each counted
// once.
func TestStatsCount(t *testing.T) {
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	raddr := peer(t, "127.0.0.1:0")
	dialPlain(t, l.Addr().String())
	accept(t, l)
	dial(t, &tr, raddr)
	dial(t, &tr, raddr)
	if _, err := tr.Dial(tcpMultiaddr(ownIP(), 1)); err == nil {
		t.Fatal("port 1 is open")
	}
	s := tr.Stats()
	if s.Listeners != 1 || s.Accepted != 1 || s.DialsReused != 1 || s.DialsNew != 1 || s.DialsFailed != 1 {
		t.Errorf("%+v", s)
	}
	if n := s.NewByCause[reuseport.TupleInUse]; n != 1 || len(s.NewByCause) != 1 {
		t.Errorf("dials from an ephemeral port by cause: %v", s.NewByCause)
	}
	s.NewByCause[reuseport.TupleInUse] = 7
	if n := tr.Stats().NewByCause[reuseport.TupleInUse]; n != 1 {
		t.Error("the map is not the caller's own")
	}
}

// TestPathStateString: each state has its word.
func TestPathStateString(t *testing.T) {
	for state, want := range map[reuseport.PathState]string{
		reuseport.PathUnproven: "unproven", reuseport.PathProven: "proven", reuseport.PathBlocked: "blocked", 7: "PathState(7)",
	} {
		if got := state.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
