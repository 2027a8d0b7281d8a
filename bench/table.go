//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// scenarios returns the rows of the table at a scale.
func scenarios(sz scale) []Scenario {
	rows := slices.Concat(dialRows(), listenerRows(), linkRows(sz), failRows(sz), rateRows(), liveRows(sz), otherRows())
	for i := range rows {
		if rows[i].Unit == "" {
			rows[i].Unit = "ns"
		}
		if rows[i].Base == "" {
			rows[i].Base = plain
		}
		if rows[i].lim == (Limit{}) {
			rows[i].lim = Limit{100, 8 * time.Millisecond}
		}
	}
	return rows
}

// atMost returns a goal for a ratio of times.
func atMost(of string, l float64) Goal { return Goal{What: "ratio", Of: of, Limit: l} }

// atLeast returns a goal for a ratio of rates.
func atLeast(of string, l float64) Goal { return Goal{What: "ratio", Of: of, Limit: l, Least: true} }

// everyone returns a goal for the share of operations.
func everyone() Goal { return Goal{What: "share", Limit: 1, Least: true} }

func dialRows() []Scenario {
	goals := []Goal{
		atMost(libp2p, 0.93), atMost(plain, 1.02),
		{What: "allocs", Limit: 22}, {What: "bytes", Limit: 700}, everyone(),
	}
	return []Scenario{
		{Name: "dial/unspecified", Title: "dial + reset, unspecified listener", Claim: "reused", Goals: goals, open: openDial(onUnspecified)},
		{Name: "dial/loopback", Title: "dial + reset, loopback listener", Claim: "reused", Goals: goals, open: openDial(onLoopback)},
	}
}

func linkRows(sz scale) []Scenario {
	var rows []Scenario
	for _, n := range sz.links {
		rows = append(rows, Scenario{
			Name: fmt.Sprintf("dial/specific/links=%d", n), Title: fmt.Sprintf("dial + reset, specific listener, %d links", n),
			Claim: "reused", Links: n, open: openDial(onSpecific),
			Goals: []Goal{atMost(plain, 1.05), {What: "allocs", Limit: 25}, everyone()},
		}, Scenario{
			Name: fmt.Sprintf("dial/two-ports/links=%d", n), Title: fmt.Sprintf("dial + reset, two specific listeners on two ports, %d links", n),
			Claim: "reused", Links: n, open: openDial(onTwoPorts),
			Goals: []Goal{atMost(plain, 1.25), everyone()},
		})
	}
	return rows
}

// listenerRows dial with few wildcard listeners and with many, each on a port of its own.
func listenerRows() []Scenario {
	var rows []Scenario
	for _, n := range []int{10, 1000} {
		onMany := func(*arena) []netip.Addr { return slices.Repeat([]netip.Addr{netip.IPv4Unspecified()}, n) }
		rows = append(rows, Scenario{
			Name: fmt.Sprintf("dial/listeners=%d", n), Title: fmt.Sprintf("dial + reset, %d unspecified listeners", n),
			Claim: "reused", Goals: []Goal{atMost(plain, 1.15), everyone()}, open: openDial(onMany),
		})
	}
	return rows
}

func failRows(sz scale) []Scenario {
	return []Scenario{
		{
			Name: "dial/global", Title: "dial + reset, global address (a hedge stands by)", Links: sz.links[0],
			Claim: "reused", open: openGlobal,
		},
		{Name: "dial/refused", Title: "dial, refused", Goals: []Goal{atMost(plain, 1.05)}, open: openRefused},
		{Name: "dial/held", Title: "second dial + reset to a held peer", Claim: "reused", Goals: []Goal{atMost(plain, 1.20)}, open: openHeld},
		{
			Name: "dial/silent", Title: "dial, on-link host that answers no ARP", Links: sz.links[0], once: true,
			Goals: []Goal{atMost(plain, 1.05)}, open: openSilent,
		},
	}
}

func rateRows() []Scenario {
	lim := Limit{1 << 30, 200 * time.Millisecond}
	var rows []Scenario
	for _, n := range []int{8, 64} {
		rows = append(rows, Scenario{
			Name: fmt.Sprintf("parallel/goroutines=%d", n), Title: fmt.Sprintf("parallel dials + resets, %d goroutines, listeners coming and going", n),
			Unit: "ops/s", Claim: "reused", lim: lim, rounds: 24, Goals: []Goal{atLeast(plain, 1), everyone()}, open: openParallel(n),
		})
	}
	for _, n := range []int{8, 32} {
		rows = append(rows, Scenario{
			Name: fmt.Sprintf("accept/clients=%d", n), Title: fmt.Sprintf("accept + close, %d clients", n),
			Unit: "ops/s", lim: lim, rounds: 24, Goals: []Goal{atLeast(plain, 0.98)}, open: openAccept(n),
		})
	}
	return rows
}

func liveRows(sz scale) []Scenario {
	var rows []Scenario
	for _, n := range sz.live {
		rows = append(rows, Scenario{
			Name: fmt.Sprintf("dial/live=%d", n), Title: fmt.Sprintf("dial with %d live connections, two loopback listeners on one port", n),
			Live: n, Claim: "reused", Goals: []Goal{atMost(plain, 1.15)}, open: openLive(n),
		})
	}
	return rows
}

func otherRows() []Scenario {
	return []Scenario{
		{
			Name: "heap", Title: "heap per live dialed connection", Unit: "B", lim: Limit{1000, time.Second}, rounds: 5,
			Goals: []Goal{{What: "value", Limit: 380}}, open: openHeap,
		},
		{
			Name: "close", Title: "Close with everything acknowledged (SO_LINGER 0 elsewhere; syscalls: FIN, then reset)", Claim: "peer read EOF",
			Goals: []Goal{atMost(plain, 1.6), everyone()}, open: openClose(true),
		},
		{
			Name: "close/plain", Title: "Close with everything acknowledged, as it comes (elsewhere the port stays in TIME_WAIT)",
			Claim: "peer read EOF", open: openClose(false),
		},
		{Name: "listen", Title: "Listen + Close", Base: libp2p, Goals: []Goal{atMost(libp2p, 1.2)}, open: openListen},
	}
}
