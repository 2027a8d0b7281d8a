package lab_test

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/lab"
)

var swarm = flag.Bool("swarm", false, "run the swarm of docs/paths.md, 6 minutes")

// What a host of the swarm is. Of twenty, twelve are dead, two refuse, one drops the listening
// port and five live.
type swarmKind int

const (
	swarmDead swarmKind = iota
	swarmRefuses
	swarmDrops
	swarmLive
)

const swarmHosts = 2000

func swarmKindOf(n int) swarmKind {
	switch n % 20 {
	case 0, 7:
		return swarmRefuses
	case 3:
		return swarmDrops
	case 5, 9, 13, 17, 19:
		return swarmLive
	}
	return swarmDead
}

// swarmAddr spreads the hosts over 100 networks.
func swarmAddr(n int) string { return fmt.Sprintf("240.%d.%d.1", n%100, n/100) }

// swarmDials asks for one dial of each host.
type swarmDials struct {
	By      string // reuseport, net or go-libp2p
	At      uint16 // the listening port
	Dialers int
	Timeout time.Duration
}

type swarmResult struct {
	Connected [4]int // by swarmKind
	Reused    int
	Took      time.Duration
	Heap      int // bytes in use more than before, at the most
}

// TestSwarm dials two thousand hosts from a fresh Transport, and by net.Dialer and go-libp2p.
// Who is reachable is the same for all; nobody may reach fewer than net.Dialer, but for hosts
// that time out there too.
func TestSwarm(t *testing.T) {
	if !*swarm {
		t.Skip("takes 6 minutes: -swarm")
	}
	for _, path := range []string{"clean", "dropping"} {
		t.Run(path, func(t *testing.T) {
			n := swarmLab(t, path == "dropping")
			reached := make(map[string]int)
			for i, by := range []string{"net", "go-libp2p", "reuseport"} {
				reached[by] = dialSwarm(t, n, swarmDials{by, listenPort + uint16(i), 160, 5 * time.Second})
			}
			if reached["reuseport"] < reached["net"] {
				t.Errorf("reached %d hosts, net.Dialer %d", reached["reuseport"], reached["net"])
			}
		})
	}
}

// swarmLab drops what leaves any listening port for some hosts, or for all.
func swarmLab(t *testing.T, dropping bool) *lab.Network {
	t.Helper()
	var drop []lab.Match
	addrs := "192.0.0.80/24"
	for i := range swarmHosts {
		kind := swarmKindOf(i)
		if kind != swarmDead {
			addrs += " " + swarmAddr(i) + "/32"
		}
		if kind == swarmDrops && !dropping {
			drop = append(drop, fromListenPorts(swarmAddr(i))...)
		}
	}
	if dropping {
		drop = fromListenPorts("240.0.0.0/4")
	}
	n := lab.Start(t, lab.Topology{
		Wires: lab.Wires{"wire": lab.Wire{Delay: 20 * time.Millisecond, Drop: drop}},
		Hosts: lab.Hosts{
			"a": {
				On:     lab.On{"wire": "192.0.0.65/16"},
				Routes: []lab.Route{{To: "240.0.0.0/4", Via: "192.0.0.80"}},
				Role:   "path",
			},
			"world": {On: lab.On{"wire": addrs}, Role: "plain"},
		},
	})
	listen(t, n, "world", ":7001")
	return n
}

func fromListenPorts(to string) (drop []lab.Match) {
	for i := range uint16(3) {
		drop = append(drop, lab.Match{SrcPort: listenPort + i, Dst: to})
	}
	return drop
}

// dialSwarm prints a row of the table and returns how many hosts were reached.
func dialSwarm(t *testing.T, n *lab.Network, d swarmDials) (reached int) {
	t.Helper()
	if err := n.ClearLog("wire"); err != nil {
		t.Fatal(err)
	}
	r := call[swarmResult](t, n, "a", "swarm", d)
	l, err := n.Log("wire")
	if err != nil || l.Missed > 0 {
		t.Fatal(l.Missed, err)
	}
	seen := make(map[[2]netip.AddrPort]bool) // connections that a server answered
	for _, p := range l.Packets {
		if p.Flags&(lab.SYN|lab.ACK) == lab.SYN|lab.ACK {
			seen[[2]netip.AddrPort{p.Src, p.Dst}] = true
		}
	}
	reached = r.Connected[swarmLive] + r.Connected[swarmDrops]
	t.Logf("%-10s reached %d live and %d that drop the port, %d reused; %.2f SYNs per host; servers saw %d connections; %.1f s; %d kB",
		d.By, r.Connected[swarmLive], r.Connected[swarmDrops], r.Reused,
		float64(len(l.SYNs()))/swarmHosts, len(seen), r.Took.Seconds(), r.Heap/1024)
	return reached
}

// swarm dials every host once.
func (h *pathPeer) swarm(ctx context.Context, d swarmDials) (swarmResult, error) {
	dial, end, err := swarmDialer(d)
	if err != nil {
		return swarmResult{}, err
	}
	defer end()
	var r swarmResult
	var mu sync.Mutex
	var next atomic.Int64
	var all sync.WaitGroup
	began, heap := time.Now(), watchHeap()
	for range d.Dialers {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < swarmHosts; i = int(next.Add(1)) - 1 {
				reused, err := dialSwarmHost(ctx, dial, i, d.Timeout)
				mu.Lock()
				if err == nil {
					r.Connected[swarmKindOf(i)]++
				}
				if reused {
					r.Reused++
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	r.Took, r.Heap = time.Since(began), heap()
	return r, nil
}

// watchHeap returns a function that tells by how much the heap grew at the most.
func watchHeap() func() int {
	heapNow := func() int {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	runtime.GC()
	before, most := heapNow(), 0
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-time.After(200 * time.Millisecond):
				most = max(most, heapNow()-before)
			case <-stop:
				return
			}
		}
	}()
	return func() int {
		close(stop)
		<-stopped
		return most
	}
}

func dialSwarmHost(ctx context.Context, dial dialFunc, n int, timeout time.Duration) (reused bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	port := "7001"
	if swarmKindOf(n) == swarmRefuses {
		port = "7999"
	}
	c, err := dial(ctx, swarmAddr(n)+":"+port)
	if err != nil {
		return false, err
	}
	conn, ours := c.(*reuseport.Conn)
	return ours && conn.Reused(), c.Close()
}

// swarmDialer returns a fresh dialer.
func swarmDialer(d swarmDials) (dial dialFunc, end func(), err error) {
	switch d.By {
	case "net":
		return new(pathPeer).dialerOf("net")
	case "go-libp2p":
		return upstreamDialer(d.At)
	}
	tr := &reuseport.Transport{}
	if _, err := tr.ListenPort(d.At); err != nil {
		return nil, nil, err
	}
	dial, _, err = (&pathPeer{transport: tr}).dialerOf("")
	return dial, func() { _ = tr.Shutdown(context.Background()) }, err // all is over by then
}
