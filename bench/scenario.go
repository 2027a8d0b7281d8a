//go:build linux

package main

import (
	"net/netip"
	"time"
)

// Scenario is a row of the table: one thing that every peer is made to do.
type Scenario struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	Unit  string `json:"unit"`            // of Sample.Value: ns, ops/s or B
	Base  string `json:"base"`            // the peer that ratios refer to
	Claim string `json:"claim,omitempty"` // what Sample.Share is the share of
	Links int    `json:"links,omitempty"` // run in a namespace with that many links
	Live  int    `json:"live,omitempty"`  // connections held while measuring
	Goals []Goal `json:"goals,omitempty"` // for our own peer

	lim    Limit
	rounds int  // at full scale; 0 for the scale's own number
	once   bool // one round, all peers at the same time: they only wait
	open   func(*arena, Peer) (probe, error)
}

// Goal is a limit that this project set itself before it measured.
type Goal struct {
	What  string  `json:"what"`            // ratio, allocs, bytes, value or share
	Of    string  `json:"of,omitempty"`    // for a ratio: the peer it refers to
	Limit float64 `json:"limit"`           // inclusive
	Least bool    `json:"least,omitempty"` // the limit is a lower bound
}

// probe is a peer prepared for one scenario.
type probe interface {
	round(lim Limit) (Sample, error)
	close() error
}

// arena is where scenarios run: on this machine's loopback or in a namespace.
type arena struct {
	local  []netip.Addr // addresses to listen on that are not loopback
	dests  func(port uint16) ([]*Addr, error)
	global func(port uint16) ([]*Addr, error) // dests whose path a network could filter
	silent func() (*Addr, error)              // an on-link address that answers no ARP
	spawn  func() (*worker, error)            // a process at the other end
}

// destinations is how many addresses the dials rotate over, and so after how many
// dials a 4-tuple comes back. An instant redial of a 4-tuple sometimes stalls for a
// second in the kernel, with every peer.
const destinations = 1 << 14

// loopbackArena is this machine's loopback.
func loopbackArena() *arena {
	return &arena{
		local: []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")},
		dests: func(port uint16) ([]*Addr, error) {
			return block(netip.MustParseAddr("127.64.0.1"), port, destinations)
		},
		spawn: func() (*worker, error) { return spawn(workerOptions{}) },
	}
}

// block returns n addresses from first on.
func block(first netip.Addr, port uint16, n int) ([]*Addr, error) {
	addrs := make([]*Addr, n)
	for i := range addrs {
		a, err := newAddr(netip.AddrPortFrom(first, port))
		if err != nil {
			return nil, err
		}
		addrs[i], first = a, first.Next()
	}
	return addrs, nil
}

// ring hands out addresses in turn.
type ring struct {
	addrs []*Addr
	next  int
}

// take returns the next address.
func (r *ring) take() *Addr {
	a := r.addrs[r.next%len(r.addrs)]
	r.next++
	return a
}

// scale shortens scenarios for -quick and for the smoke test.
type scale struct {
	rounds int
	lim    func(Limit) Limit
	links  []int
	live   []int
}

// fullRounds is how many rounds a scenario has at full scale.
const fullRounds = 120

// fullScale is the scale of the published figures.
func fullScale() scale {
	return scale{rounds: fullRounds, lim: func(l Limit) Limit { return l }, links: []int{2, 22, 52, 102, 202}, live: liveCounts()}
}

// quickScale takes less than two minutes.
func quickScale() scale {
	half := func(l Limit) Limit { return Limit{l.Ops / 2, l.Time / 2} }
	return scale{rounds: 40, lim: half, links: []int{2, 202}, live: liveCounts()}
}

// smokeScale only shows that everything runs.
func smokeScale() scale {
	few := func(l Limit) Limit { return Limit{leastOps, 5 * time.Millisecond} }
	return scale{rounds: 2, lim: few, links: []int{2}, live: []int{100}}
}

// liveCounts returns how many connections are held. A process on a common machine
// gets 20,000 descriptors.
func liveCounts() []int { return []int{100, 1000, 5000, 19000} }
