//go:build !plan9

package reuseport_test

import (
	"encoding/json"
	"expvar"
	"net/netip"
	"reflect"
	"syscall"
	"testing"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"

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

// TestDialLatency: each dial counts once, by what it returned, for as long as it took. A punch
// is no dial.
func TestDialLatency(t *testing.T) {
	var tr reuseport.Transport
	if l := tr.Stats().DialLatency; l.Reused.Count+l.New.Count+l.Failed.Count != 0 || len(l.Failed.Buckets) == 0 {
		t.Errorf("before the first dial: %+v", l)
	}
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	raddr := peer(t, "127.0.0.1:0")
	dial(t, &tr, raddr)
	dial(t, &tr, raddr)
	_, address, err := manet.DialArgs(raddr)
	if err != nil {
		t.Fatal(err)
	}
	c, err := tr.DialNetContext(t.Context(), "tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		if _, err := tr.Dial(tcpMultiaddr(ownIP(), 1)); err == nil {
			t.Fatal("port 1 is open")
		}
	}
	if _, err := tr.Dial(parse(t, "/ip4/127.0.0.1/udp/1")); err == nil {
		t.Fatal("dialed UDP")
	}
	if _, err := tr.DialNetContext(t.Context(), "tcp", "nonsense"); err == nil {
		t.Fatal("dialed nonsense")
	}
	if _, err := tr.Punch(shortly(t, 10*time.Millisecond), tcpMultiaddr(ownIP(), 1)); err == nil {
		t.Fatal("punched port 1")
	}
	l := tr.Stats().DialLatency
	for name, got := range map[string]reuseport.Latency{"reused": l.Reused, "new": l.New, "failed": l.Failed} {
		wantLatency(t, name, got, map[string]uint64{"reused": 1, "new": 2, "failed": 5}[name])
	}
}

// wantLatency checks the count of a histogram, and that its parts fit each other.
func wantLatency(t *testing.T, name string, l reuseport.Latency, count uint64) {
	t.Helper()
	if l.Count != count || l.Seconds <= 0 {
		t.Errorf("%s: %d in %v s, want %d", name, l.Count, l.Seconds, count)
	}
	var last reuseport.Bucket
	for i, b := range l.Buckets {
		if b.UpTo <= last.UpTo || i > 0 && b.UpTo != 2*last.UpTo || b.Count < last.Count {
			t.Errorf("%s: %v follows %v", name, b, last)
		}
		last = b
	}
	if first := l.Buckets[0].UpTo; first != 125e-6 || last.UpTo < 131 || last.Count != count {
		t.Errorf("%s: buckets from %v to %v, want %d in the last", name, l.Buckets[0], last, count)
	}
}

// TestDialLatencyWaits: a dial that waits for half a second is in the buckets above that.
func TestDialLatencyWaits(t *testing.T) {
	t.Parallel()
	var tr reuseport.Transport
	tr.Control = func(string, string, syscall.RawConn) error { time.Sleep(500 * time.Millisecond); return nil }
	dial(t, &tr, peer(t, "127.0.0.1:0"))
	l := tr.Stats().DialLatency.New
	wantLatency(t, "new", l, 1)
	for _, b := range l.Buckets {
		if b.UpTo < 0.5 && b.Count != 0 || b.UpTo > 100 && b.Count != 1 {
			t.Errorf("%v s: %d within %v s", l.Seconds, b.Count, b.UpTo)
		}
	}
}

// TestStatsInExpvar: expvar shows Stats as JSON with the names of its fields.
func TestStatsInExpvar(t *testing.T) {
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	dial(t, &tr, peer(t, "127.0.0.1:0"))
	shown := expvar.Func(func() any { return tr.Stats() }).String()
	var got map[string]any
	if err := json.Unmarshal([]byte(shown), &got); err != nil {
		t.Fatalf("%v in %s", err, shown)
	}
	for f := range reflect.TypeFor[reuseport.Stats]().Fields() {
		if _, ok := got[f.Name]; !ok {
			t.Errorf("no %s in %s", f.Name, shown)
		}
	}
	var again struct{ DialLatency reuseport.DialLatency }
	if err := json.Unmarshal([]byte(shown), &again); err != nil || !reflect.DeepEqual(again.DialLatency, tr.Stats().DialLatency) {
		t.Errorf("%v: read %+v", err, again)
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

// TestPathString: one line answers why dials do not reuse a port.
func TestPathString(t *testing.T) {
	source, at := netip.MustParseAddrPort("192.0.2.1:4001"), time.Date(2026, 1, 1, 12, 30, 0, 0, time.UTC)
	for want, p := range map[string]reuseport.Path{
		"192.0.2.1:4001 to near hosts: unproven, refused here and not elsewhere": {Source: source, Rejects: true},
		"192.0.2.1:4001 to private hosts: proven, last handshake 12:30:00, 2 silent hosts": {
			Source: source, Distance: reuseport.DistancePrivate, State: reuseport.PathProven, LastHandshake: at, SilentHosts: 2,
		},
		"192.0.2.1:4001 to global hosts: blocked by 24 networks, next probe 12:30:00": {
			Source: source, Distance: reuseport.DistanceGlobal, State: reuseport.PathBlocked, Votes: 24, NextProbe: at,
		},
		"192.0.2.1:4001 to global hosts: unproven, 3 of 24 networks did not answer": {
			Source: source, Distance: reuseport.DistanceGlobal, Votes: 3,
		},
	} {
		if got := p.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
