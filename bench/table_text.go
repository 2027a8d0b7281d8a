//go:build linux

package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// writeTable writes a report for people.
func (r Report) writeTable(w io.Writer) error {
	fmt.Fprintf(w, "%s\n%s\n\n", r.Command, r.where())
	fmt.Fprintln(w, "Ratios are medians over the rounds, with quartiles; one round of all peers gives one ratio.")
	for _, sc := range r.Scenarios {
		if err := r.writeScenario(w, sc); err != nil {
			return err
		}
	}
	fmt.Fprintln(w)
	return r.writeGoals(w)
}

// writeScenario writes the rows of one scenario.
func (r Report) writeScenario(w io.Writer, sc Scenario) error {
	fmt.Fprintf(w, "\n%s (%s; ratio to %s)\n", sc.Title, sc.Name, sc.Base)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range r.rows(sc) {
		if row.err != "" {
			fmt.Fprintf(tw, "  %s\t%s\n", row.peer, row.err)
			continue
		}
		fmt.Fprintf(tw, "  %s\t%s\t%.2f\t[%.2f-%.2f]\t%s\n", row.peer, row.figure(row.value.Mid),
			row.ratio.Mid, row.ratio.Low, row.ratio.High, row.details())
	}
	return tw.Flush()
}

// figure returns a value with its unit.
func (r row) figure(v float64) string {
	if r.Unit != "ns" {
		return fmt.Sprintf("%.0f %s", v, r.Unit)
	}
	return time.Duration(v).Round(100 * time.Nanosecond).String()
}

// details returns the further columns of a row.
func (r row) details() string {
	s := ""
	if r.p90 > 0 {
		s = "p90 " + r.figure(r.p90)
	}
	if r.allocs > 0 {
		s += fmt.Sprintf("\t%.0f allocs\t%.0f B", r.allocs, r.bytes)
	}
	if r.share != nil {
		s += fmt.Sprintf("\t%.0f%% %s", 100**r.share, r.Claim)
	}
	return s
}

// writeGoals writes which goals were reached.
func (r Report) writeGoals(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "goal\tlimit\tgot\t")
	for _, sc := range r.Scenarios {
		for _, o := range r.outcomes(sc) {
			fmt.Fprintf(tw, "%s\t%s\t%s\n", o.title, o.Goal, o.verdict())
		}
	}
	return tw.Flush()
}

// String returns the goal in a few words.
func (g Goal) String() string {
	sign := "<="
	if g.Least {
		sign = ">="
	}
	switch g.What {
	case "ratio":
		return fmt.Sprintf("%s %.2f x %s", sign, g.Limit, g.Of)
	case "share":
		return fmt.Sprintf("%s %.0f%%", sign, 100*g.Limit)
	default:
		return fmt.Sprintf("%s %s %.0f", g.What, sign, g.Limit)
	}
}

// verdict says what was reached and whether it is enough.
func (o outcome) verdict() string {
	if !o.known {
		return "\tnot measured"
	}
	got := fmt.Sprintf("%.2f", o.got)
	switch o.What {
	case "share":
		got = fmt.Sprintf("%.0f%%", 100*o.got)
	case "allocs", "bytes", "value":
		got = fmt.Sprintf("%.0f", o.got)
	}
	if o.met() {
		return got + "\tmet"
	}
	return got + "\tMISSED"
}
