package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/reusetransport/reuseport/lab"
)

func drawTopology(cfg config) string {
	return fmt.Sprintf(`Topology
  a 10.1.0.2 ──lanA── natA 192.0.0.65 ──┐
                                        ├── wire, %v round trip ── r 192.0.0.80 and .81
  b 10.2.0.2 ──lanB── natB 192.0.0.66 ──┘
  a and b listen on port %s. NATs: %s.
`, cfg.rtt, port, describe(cfg.nat))
}

func describe(nat lab.NAT) string {
	mapping := map[lab.Mapping]string{
		lab.PortPreserving:          "endpoint-independent mapping, port preserving",
		lab.PortShifting:            "endpoint-independent mapping, ports 20000 to 29999",
		lab.AddressAndPortDependent: "address-and-port-dependent mapping",
	}[nat.Mapping]
	if nat.Unsolicited == lab.Reset {
		return mapping + "; unsolicited packets are answered with a RST"
	}
	return mapping + "; unsolicited packets are dropped"
}

// drawMappings lists what the rendezvous saw, one line for each dial.
func drawMappings(ms []mapping) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Mappings\n  %-5s %-18s %-18s %-18s %s\n", "host", "to", "left from", "r saw", "listening port")
	for _, m := range ms {
		reused := "reused"
		if !m.Reused {
			reused = "not reused"
		}
		fmt.Fprintf(&b, "  %-5s %-18v %-18v %-18v %s\n", m.Host, m.To, m.Local, m.Seen, reused)
	}
	return b.String() + verdicts(ms)
}

// verdicts says for each host whether all its dials had the same mapping.
func verdicts(ms []mapping) string {
	var b strings.Builder
	for _, host := range []string{"a", "b"} {
		own := slices.DeleteFunc(slices.Clone(ms), func(m mapping) bool { return m.Host != host })
		one := !slices.ContainsFunc(own, func(m mapping) bool { return m.Seen != own[0].Seen })
		if one && len(own) > 0 {
			fmt.Fprintf(&b, "  %s has one mapping, %v: others can reach it there.\n", host, own[0].Seen)
		} else {
			fmt.Fprintf(&b, "  %s has a mapping for each destination: others can use none of them.\n", host)
		}
	}
	return b.String()
}

// laneWidth is the distance between two lanes, in columns.
const laneWidth = 32

// drawSYNs draws each SYN and SYN-ACK on the wire as an arrow between lanes, with the
// time at which it was sent.
func drawSYNs(packets []lab.Packet) string {
	var b strings.Builder
	fmt.Fprintf(&b, "SYNs on the wire\n  %8s  %s\n", "ms", strings.TrimRight(laneNames(), " "))
	shown := syns(packets)
	for _, p := range shown {
		fmt.Fprintf(&b, "  %8.1f  %s\n", milliseconds(p.At.Sub(shown[0].At)), drawArrow(p))
	}
	return b.String()
}

func laneNames() string {
	var b strings.Builder
	for _, name := range lanes() {
		fmt.Fprintf(&b, "%-*s", laneWidth, name)
	}
	return b.String()
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// drawArrow draws one packet between its lanes. If it did not arrive, the arrow ends
// in an x.
func drawArrow(p lab.Packet) string {
	from, to := slices.Index(lanes(), p.From), slices.Index(lanes(), p.To)
	if from < 0 || to < 0 || from == to {
		return p.String()
	}
	row := emptyRow()
	left, right := min(from, to)*laneWidth, max(from, to)*laneWidth
	for x := left + 1; x < right; x++ {
		row[x] = '─'
	}
	label := []rune(fmt.Sprintf(" %v %d > %d ", p.Flags, p.Src.Port(), p.Dst.Port()))
	if from < to {
		copy(row[left+2:right-1], label)
		row[right-1] = tip(p, '>')
	} else {
		copy(row[max(left+2, right-1-len(label)):right-1], label)
		row[left+1] = tip(p, '<')
	}
	return string(row)
}

// emptyRow is a row without an arrow.
func emptyRow() []rune {
	row := []rune(strings.Repeat(" ", (len(lanes())-1)*laneWidth+1))
	for x := 0; x < len(row); x += laneWidth {
		row[x] = '│'
	}
	return row
}

func tip(p lab.Packet, arrived rune) rune {
	if p.Lost || p.Dropped {
		return 'x'
	}
	return arrived
}
