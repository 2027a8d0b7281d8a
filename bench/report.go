//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Report is a run and the conditions it was made under.
type Report struct {
	Date      string     `json:"date"`
	Kernel    string     `json:"kernel"`
	Go        string     `json:"go"`
	CPU       string     `json:"cpu"`
	Command   string     `json:"command"`
	Scenarios []Scenario `json:"scenarios"`
	Results   []Result   `json:"results"`
}

// newReport notes when and where the run was made.
func newReport(command string, rows []Scenario, results []Result) Report {
	return Report{
		Date: time.Now().UTC().Format(time.DateOnly), Kernel: kernel(),
		Go: runtime.Version(), CPU: fmt.Sprintf("%d x %s", runtime.NumCPU(), cpuModel()),
		Command: command, Scenarios: rows, Results: results,
	}
}

// where returns the line that stands in every picture.
func (r Report) where() string {
	return fmt.Sprintf("%s, Linux %s, %s, %s", r.Date, r.Kernel, r.Go, r.CPU)
}

// kernel returns the version of the running kernel, without a distributor's suffix.
func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	version, _, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	return version
}

// cpuModel returns the kernel's name of the processor.
func cpuModel() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	_, rest, found := strings.Cut(string(info), "model name\t: ")
	if !found {
		return runtime.GOARCH
	}
	model, flags, _ := strings.Cut(rest, "\n")
	if strings.Contains(flags, " hypervisor") {
		model += " (virtual)"
	}
	return strings.TrimSpace(model)
}

// unmeasured returns an error for each scenario in which this module could not be
// measured.
func (r Report) unmeasured() error {
	var errs []error
	for _, res := range r.Results {
		if res.Peer == ours && res.Err != "" {
			errs = append(errs, fmt.Errorf("%s not measured: %s", res.Scenario, res.Err))
		}
	}
	return errors.Join(errs...)
}

// row is a scenario's outcome for one peer.
type row struct {
	Scenario
	peer   string
	value  spread
	p90    float64
	ratio  spread // to the scenario's base
	allocs float64
	bytes  float64
	share  *float64 // the worst round's
	err    string
}

// rows returns the outcomes of a scenario, in the order of the peers.
func (r Report) rows(sc Scenario) []row {
	var rows []row
	for _, res := range r.Results {
		if res.Scenario == sc.Name {
			rows = append(rows, r.row(sc, res))
		}
	}
	return rows
}

// row sums up one result.
func (r Report) row(sc Scenario, res Result) row {
	pick := func(of func(Sample) float64) float64 { return spreadOf(column(res.Samples, of)).Mid }
	return row{
		Scenario: sc, peer: res.Peer, err: res.Err,
		value:  spreadOf(column(res.Samples, Sample.value)),
		p90:    pick(func(s Sample) float64 { return s.P90 }),
		allocs: pick(func(s Sample) float64 { return s.Allocs }),
		bytes:  pick(func(s Sample) float64 { return s.Bytes }),
		ratio:  r.ratio(res, sc.Base),
		share:  worstShare(res.Samples),
	}
}

// value is the figure that scenarios compare.
func (s Sample) value() float64 { return s.Value }

// column returns one figure of every round.
func column(samples []Sample, of func(Sample) float64) []float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = of(s)
	}
	return values
}

// ratio returns the spread of the ratios to the base in the same round.
func (r Report) ratio(res Result, base string) spread {
	var ratios []float64
	for _, b := range r.Results {
		if b.Scenario != res.Scenario || b.Peer != base {
			continue
		}
		for i := range min(len(b.Samples), len(res.Samples)) {
			ratios = append(ratios, res.Samples[i].Value/b.Samples[i].Value)
		}
	}
	return spreadOf(ratios)
}

// worstShare returns the smallest share of all rounds, or nil if there is none.
func worstShare(samples []Sample) *float64 {
	var worst *float64
	for _, s := range samples {
		if s.Share != nil && (worst == nil || *s.Share < *worst) {
			worst = s.Share
		}
	}
	return worst
}

// outcome is a goal with what was reached.
type outcome struct {
	Goal
	title string
	got   float64
	known bool // false if it was not measured
}

// met reports whether the goal is reached, at the precision of the table.
func (o outcome) met() bool {
	if o.Least {
		return o.got >= o.Limit-0.005
	}
	return o.got <= o.Limit+0.005
}

// outcomes returns the goals of a scenario with what this module reached.
func (r Report) outcomes(sc Scenario) []outcome {
	var all []outcome
	for _, res := range r.Results {
		if res.Scenario != sc.Name || res.Peer != ours {
			continue
		}
		for _, g := range sc.Goals {
			all = append(all, r.outcome(sc, res, g))
		}
	}
	return all
}

// outcome looks up the figure that a goal is about.
func (r Report) outcome(sc Scenario, res Result, g Goal) outcome {
	o := outcome{Goal: g, title: sc.Title, known: res.Err == ""}
	got := r.row(sc, res)
	switch g.What {
	case "ratio":
		o.got = r.ratio(res, g.Of).Mid
		o.known = o.known && o.got > 0
	case "allocs":
		o.got = got.allocs
	case "bytes":
		o.got = got.bytes
	case "value":
		o.got = got.value.Mid
	case "share":
		o.known = o.known && got.share != nil
		if o.known {
			o.got = *got.share
		}
	}
	return o
}
