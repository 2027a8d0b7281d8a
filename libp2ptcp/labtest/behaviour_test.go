package labtest

import (
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/reusetransport/reuseport/lab"
)

var barrageTime = flag.Duration("barrage", 8*time.Second, "how long TestSYNs dials; 30s for the figures of the README")

// TestObservedAddress connects a host behind a NAT that does not preserve ports to
// eight others, and checks the addresses that they see and those that the host makes
// of it. go-libp2p tells others an address once four peers have seen it.
//
//	a ──lan── nat ── wire ── r (eight addresses, a host on each)
func TestObservedAddress(t *testing.T) {
	t.Parallel()
	const others = 8
	on := ""
	for i := range others {
		on += fmt.Sprintf("192.0.0.%d/24 ", 80+i)
	}
	s := &scene{t: t, Network: lab.Start(t, lab.Topology{
		Wires: lab.Wires{"wire": {Delay: 5 * time.Millisecond}},
		Hosts: lab.Hosts{
			"a":   {On: lab.On{"lan": "10.1.0.2/24"}, Via: "10.1.0.1", Role: "libp2p"},
			"nat": {On: lab.On{"lan": "10.1.0.1/24", "wire": "192.0.0.65/24"}, NAT: &lab.NAT{Outside: "wire", Mapping: lab.PortShifting}},
			"r":   {On: lab.On{"wire": on}, Role: "libp2p"},
		},
	})}
	var peers []peer.AddrInfo
	for i := range others {
		in := setup{Transport: stock, IP: fmt.Sprintf("192.0.0.%d", 80+i), Port: uint16(5000 + i)}
		peers = append(peers, ask[peer.AddrInfo](s, "r", "open", in))
	}
	for i, tt := range []struct {
		transport string
		reused    int // connections that share one mapping
		told      int // public addresses
	}{{ours, others, 1}, {mixed, others / 2, 1}, {newPort, 0, 0}} {
		s.observe(tt.transport, uint16(4001+i), peers, tt.reused, tt.told)
	}
}

// observe connects a new host to all peers.
func (s *scene) observe(transport string, port uint16, peers []peer.AddrInfo, reused, told int) {
	s.t.Helper()
	a := ask[peer.AddrInfo](s, "a", "open", setup{Transport: transport, Port: port, Relay: &peers[0]})
	ask[struct{}](s, "a", "connect", to{Port: port, Peers: peers})
	seen := map[string]int{}
	for i := range peers {
		seen[ask[string](s, "r", "sees", wait{Port: uint16(5000 + i), Peer: a.ID})]++
	}
	var addrs []string
	for end := time.Now().Add(startLimit); ; time.Sleep(50 * time.Millisecond) {
		addrs = ask[[]string](s, "a", "addrs", wait{Port: port})
		if len(addrs) >= told && told > 0 || time.Now().After(end) || told == 0 && time.Until(end) < startLimit-4*time.Second {
			break
		}
	}
	s.t.Logf("%s: seen from %v, tells %v", transport, seen, addrs)
	if len(addrs) != told || told == 1 && seen[addrs[0]] != reused {
		s.t.Errorf("%s: tells %v, which %v see; want %d addresses that %d see", transport, addrs, seen, told, reused)
	}
	if told == 0 && len(seen) != len(peers) {
		s.t.Errorf("%s: seen from %v, want %d different ports", transport, seen, len(peers))
	}
	ask[struct{}](s, "a", "shut", wait{Port: port})
}

// TestSYNs makes a host with our transport and one with go-libp2p's dial dead and
// refusing addresses at the same time, and counts the SYNs on the wire.
//
//	a ──┐
//	b ──┴── wire ── r: .80 a host, .90 and .91 refuse, .94 and .95 are silent
func TestSYNs(t *testing.T) {
	t.Parallel()
	dead := "192.0.0.94/31"
	s := &scene{t: t, Network: lab.Start(t, lab.Topology{
		Wires: lab.Wires{"wire": {Delay: 10 * time.Millisecond, Drop: []lab.Match{{Dst: dead}}}},
		Hosts: lab.Hosts{
			"a": {On: lab.On{"wire": "192.0.0.65/24"}, Role: "libp2p"},
			"b": {On: lab.On{"wire": "192.0.0.66/24"}, Role: "libp2p"},
			"r": {On: lab.On{"wire": "192.0.0.80/24 192.0.0.90/24 192.0.0.91/24 192.0.0.94/24 192.0.0.95/24"}, Role: "libp2p"},
		},
	})}
	s.relay = ask[peer.AddrInfo](s, "r", "open", setup{Transport: stock, IP: "192.0.0.80", Port: relayPort})
	kinds := map[string]string{"a": ours, "b": stock}
	for host, kind := range kinds {
		ask[peer.AddrInfo](s, host, "open", setup{Transport: kind, Port: 4002, Relay: &s.relay})
		ask[struct{}](s, host, "connect", to{Port: 4002, Peers: []peer.AddrInfo{s.relay}})
	}
	for what, targets := range map[string][]string{
		"refusing": {"/ip4/192.0.0.90/tcp/9", "/ip4/192.0.0.91/tcp/9"},
		"dead":     {"/ip4/192.0.0.94/tcp/9", "/ip4/192.0.0.95/tcp/9"},
	} {
		mine, theirs := s.barrage(targets)
		t.Logf("%s: ours %v; stock %v", what, mine, theirs)
		if mine.perDial() > 1.05*theirs.perDial() {
			t.Errorf("%s: %v SYNs a dial, the stock transport %v", what, mine, theirs)
		}
		if what == "refusing" && mine.syns != mine.dials {
			t.Errorf("refusing: %v, want one SYN a dial", mine)
		}
	}
}

// volley is what a barrage cost.
type volley struct{ dials, syns int64 }

func (v volley) perDial() float64 { return float64(v.syns) / float64(max(1, v.dials)) }

func (v volley) String() string {
	return fmt.Sprintf("%d SYNs for %d dials (%.2f)", v.syns, v.dials, v.perDial())
}

// barrage makes a and b dial the targets, and counts.
func (s *scene) barrage(targets []string) (mine, theirs volley) {
	s.t.Helper()
	if err := s.ClearLog("wire"); err != nil {
		s.t.Fatal(err)
	}
	in := barrage{Port: 4002, Targets: targets, For: *barrageTime}
	done := make(chan struct{})
	go func() {
		defer close(done)
		theirs.dials, _ = lab.Call[int64](s.t.Context(), s.Network, "b", "dial", in) // zero fails below
	}()
	mine.dials = ask[int64](s, "a", "dial", in)
	<-done
	log, err := s.Log("wire")
	if err != nil || theirs.dials == 0 || log.Missed > 0 {
		s.t.Fatalf("%v, %d dials, %d packets not recorded", err, theirs.dials, log.Missed)
	}
	for _, p := range log.Packets {
		if p.IsSYN() && slices.Contains(targets, multiaddr(p.Dst)) {
			count := map[string]*int64{"a": &mine.syns, "b": &theirs.syns}[p.From]
			*count++
		}
	}
	return mine, theirs
}

func multiaddr(a netip.AddrPort) string {
	return ma.StringCast(fmt.Sprintf("/ip4/%s/tcp/%d", a.Addr(), a.Port())).String()
}

// TestFarewell closes a host as soon as TCP has what it wrote, 0.2 s away from the
// other host. GoAway, which gives the reason, is last in the stream: if it arrives,
// so has everything before it. (The bytes are one message of Noise, complete only
// with the last of them. If the reader is later than GoAway, yamux drops them.) The
// stock transport, which resets the connection, is shown for comparison.
func TestFarewell(t *testing.T) {
	t.Parallel()
	s := &scene{t: t, Network: lab.Start(t, lab.Topology{
		Wires: lab.Wires{"wire": {Delay: 100 * time.Millisecond}},
		Hosts: lab.Hosts{
			"a": {On: lab.On{"wire": "192.0.0.65/24"}, Role: "libp2p"},
			"b": {On: lab.On{"wire": "192.0.0.66/24"}, Role: "libp2p"},
		},
	})}
	for i, kind := range []string{ours, stock} {
		for try := range 3 {
			got := s.farewell(kind, uint16(4001+10*i+try))
			t.Logf("%s: %d of %d bytes, GoAway %t", kind, got.Bytes, byeBytes, got.GoAway)
			if kind == ours && !got.GoAway {
				t.Errorf("%+v arrived", got)
			}
		}
	}
}

// farewell makes b say goodbye to a.
func (s *scene) farewell(kind string, port uint16) received {
	s.t.Helper()
	a := ask[peer.AddrInfo](s, "a", "open", setup{Transport: kind, IP: "192.0.0.65", Port: port})
	b := ask[peer.AddrInfo](s, "b", "open", setup{Transport: kind, IP: "192.0.0.66", Port: port})
	ask[struct{}](s, "b", "connect", to{Port: port, Peers: []peer.AddrInfo{a}})
	got := make(chan received)
	go func() {
		r, err := lab.Call[received](s.t.Context(), s.Network, "a", "receive", wait{Port: port, Limit: 5 * time.Second})
		if err != nil {
			r.Bytes = -1
		}
		got <- r
	}()
	time.Sleep(100 * time.Millisecond) // for the handler to be there
	ask[struct{}](s, "b", "farewell", wait{Port: port, Peer: a.ID})
	r := <-got
	ask[struct{}](s, "a", "shut", wait{Port: port, Peer: b.ID})
	return r
}
