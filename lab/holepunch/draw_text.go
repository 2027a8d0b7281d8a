package holepunch

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	laneWidth  = 28 // between the two borders
	panelWidth = 8 + laneWidth + 4
)

// DrawText draws the panels side by side, for a terminal of 120 columns.
func DrawText(w io.Writer, cfg Config, panels []Panel) error {
	var b strings.Builder
	fmt.Fprintf(&b, `Topology
  a 10.1.0.2 ── NAT A 192.0.0.65 ──┐
                                   ├── wire, %v round trip ── rendezvous 192.0.0.80
  b 10.2.0.2 ── NAT B 192.0.0.66 ──┘
  Both listen on port 4001, ask the rendezvous at which address they are seen, and dial the address of the other.
  b starts %v after a. The NATs %s.
  The column ms shows when a packet left one NAT, the tip of its arrow when it reached the other.
  x: that NAT does not let it in.

`, cfg.RTT, cfg.Late, map[bool]string{false: "drop unsolicited packets", true: "answer unsolicited packets with a RST"}[cfg.Reset])
	columns := make([][]string, len(panels))
	for i, p := range panels {
		columns[i] = p.lines()
	}
	b.WriteString(sideBySide(columns))
	_, err := io.WriteString(w, b.String())
	return err
}

// lines draws one panel.
func (p Panel) lines() []string {
	a, b := p.mappings()
	lines := []string{p.Title, a, b, "", fmt.Sprintf("%7s %-*s%s", "ms", laneWidth-3, "NAT A", "NAT B")}
	drawn, more := p.arrows()
	for _, x := range drawn {
		lines = append(lines, fmt.Sprintf("%7.0f %s", milliseconds(x.sent), x.line()))
	}
	if more > 0 {
		lines = append(lines, fmt.Sprintf("%7s and %d more SYNs", "", more))
	}
	return append(lines, "", p.verdict())
}

// line draws an arrow.
func (x arrow) line() string {
	tip := map[bool]string{true: ">", false: "x"}[x.admitted]
	text := fmt.Sprintf("─ %s ", x.label)
	end := fmt.Sprintf(" %.0f ─", milliseconds(x.came))
	dashes := strings.Repeat("─", max(0, laneWidth-3-utf8.RuneCountInString(text+end)))
	if x.rightward {
		return "│" + text + dashes + end + tip + "│"
	}
	if tip == ">" {
		tip = "<"
	}
	return "│" + tip + reverseWords(end) + dashes + reverseWords(text) + "│"
}

// reverseWords moves the dash of an arrow's text to its other side.
func reverseWords(s string) string {
	words := strings.Split(s, " ")
	for i, j := 0, len(words)-1; i < j; i, j = i+1, j-1 {
		words[i], words[j] = words[j], words[i]
	}
	return strings.Join(words, " ")
}

func sideBySide(columns [][]string) string {
	rows := 0
	for _, c := range columns {
		rows = max(rows, len(c))
	}
	// The verdicts must be in one row, so shorter columns are padded before them.
	for i, c := range columns {
		last := len(c) - 1
		pad := make([]string, rows-len(c))
		columns[i] = append(append(append([]string{}, c[:last]...), pad...), c[last])
	}
	var b strings.Builder
	for row := range rows {
		var line strings.Builder
		for _, c := range columns {
			line.WriteString(c[row] + strings.Repeat(" ", max(1, panelWidth-utf8.RuneCountInString(c[row]))))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
