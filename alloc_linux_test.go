package reuseport_test

import (
	"errors"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	"github.com/reusetransport/reuseport"
)

// The figures here do not depend on the machine; the times are in docs/bench.md.
// They are what Go 1.26 takes: of the 21 allocations of a dial one is ours, the Conn,
// and the rest are net.Dialer's.

// cost is what one operation allocates.
type cost struct{ allocs, bytes float64 }

// operations is how many of them a figure rests on.
const operations = 500

// costOf measures op, which is so many operations, each time after prepare. The
// least of several tries counts, since whatever else runs in the process can only add.
func costOf(prepare, op func()) cost {
	least := cost{1e9, 1e9}
	for range 5 {
		prepare()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		op()
		runtime.ReadMemStats(&after)
		least.allocs = min(least.allocs, float64(after.Mallocs-before.Mallocs)/operations)
		least.bytes = min(least.bytes, float64(after.TotalAlloc-before.TotalAlloc)/operations)
	}
	return least
}

// nothing has to be prepared.
func nothing() {}

// within fails the test if a cost exceeds the limits.
func (c cost) within(t *testing.T, what string, allocs, bytes float64) {
	t.Helper()
	t.Logf("%s: %.1f allocations, %.0f bytes", what, c.allocs, c.bytes)
	if c.allocs > allocs+0.5 || c.bytes > bytes {
		t.Errorf("%s: %.1f allocations and %.0f bytes, want at most %v and %v", what, c.allocs, c.bytes, allocs, bytes)
	}
}

// sinkAddrs starts a process that accepts everything and returns addresses of it.
func sinkAddrs(t *testing.T) []ma.Multiaddr {
	t.Helper()
	sink := startChild(t, "sink")
	port, err := strconv.ParseUint(sink.receive(t), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	addrs, ip := make([]ma.Multiaddr, operations), ownIP()
	for i := range addrs {
		ip = ip.Next()
		addrs[i] = tcpMultiaddr(ip, uint16(port))
	}
	return addrs
}

// dialOne dials without a cleanup, which would count.
func dialOne(t *testing.T, tr *reuseport.Transport, raddr ma.Multiaddr) *reuseport.Conn {
	t.Helper()
	c, err := tr.Dial(raddr)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*reuseport.Conn)
}

// dialAll dials every address from tr and returns the connections.
func dialAll(t *testing.T, tr *reuseport.Transport, to []ma.Multiaddr) []*reuseport.Conn {
	t.Helper()
	conns := make([]*reuseport.Conn, len(to))
	for i, raddr := range to {
		conns[i] = dialOne(t, tr, raddr)
	}
	return conns
}

// abortAll resets connections.
func abortAll(t *testing.T, conns []*reuseport.Conn) {
	t.Helper()
	for _, c := range conns {
		if err := c.Abort(); err != nil {
			t.Error(err)
		}
	}
}

func TestDialAllocs(t *testing.T) {
	to := sinkAddrs(t)
	for _, laddr := range []string{"0.0.0.0", ownIP().String()} {
		var tr reuseport.Transport
		listen(t, &tr, "/ip4/"+laddr+"/tcp/0")
		costOf(nothing, func() {
			for _, raddr := range to {
				if err := dialOne(t, &tr, raddr).Abort(); err != nil {
					t.Fatal(err)
				}
			}
		}).within(t, "dial + Abort from "+laddr, 22, 700)
	}
}

func TestRefusedDialAllocs(t *testing.T) {
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/0.0.0.0/tcp/0")
	to := tcpMultiaddr(ownIP(), ownPort())
	costOf(nothing, func() {
		for range operations {
			if _, err := tr.Dial(to); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Fatal(err)
			}
		}
	}).within(t, "refused dial", 18, 600)
}

func TestAcceptAllocs(t *testing.T) {
	var tr, dialer reuseport.Transport
	l := listen(t, &tr, "/ip4/"+ownIP().String()+"/tcp/0")
	to := slices.Repeat([]ma.Multiaddr{l.Multiaddr()}, operations)
	var waiting []*reuseport.Conn
	costOf(func() {
		abortAll(t, waiting)
		waiting = dialAll(t, &dialer, to) // in the accept queue
	}, func() {
		for range operations {
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.(*reuseport.Conn).Abort(); err != nil {
				t.Fatal(err)
			}
		}
	}).within(t, "accept + Abort", 7, 400)
	abortAll(t, waiting)
}

func TestHeapPerLiveConnection(t *testing.T) {
	to := sinkAddrs(t)
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/0.0.0.0/tcp/0")
	before := heapInUse()
	conns := dialAll(t, &tr, to)
	each := (heapInUse() - before) / operations
	runtime.KeepAlive(to)
	abortAll(t, conns)
	t.Logf("a live dialed connection takes %d bytes of heap", each)
	if each > 380 {
		t.Errorf("a live dialed connection takes %d bytes of heap, want at most 380", each)
	}
}

// heapInUse is what live objects take. Finalizers, cleanups and pools let go of
// things one collection later.
func heapInUse() int64 {
	for range 4 {
		runtime.GC()
		time.Sleep(5 * time.Millisecond)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
