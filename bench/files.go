//go:build linux

package main

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/perf/benchfmt"
)

// writeFiles writes the report in every form to a directory, which it makes.
func (r Report) writeFiles(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(
		writeFile(dir, "bench.md", r.writeMarkdown),
		writeFile(dir, "bench.txt", r.writeBenchstat),
		writeFile(dir, "bench.json", r.writeJSON),
		writeFile(dir, "bench-ratios.svg", r.plotRatios),
		writeFile(dir, "bench-live.svg", r.plotLive),
		writeFile(dir, "bench-links.svg", r.plotLinks),
	)
}

// writeFile writes one file, but no picture without data.
func writeFile(dir, name string, write func(io.Writer) error) error {
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Close())
	if errors.Is(err, errNoData) {
		return os.Remove(f.Name())
	}
	return err
}

// errNoData says that the run has no data for a picture.
var errNoData = errors.New("no data for this picture")

// writeJSON writes everything, including each round.
func (r Report) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	return enc.Encode(r)
}

// writeBenchstat writes one line per round in the format of benchstat: `benchstat
// -col /peer bench.txt` sets the peers side by side.
func (r Report) writeBenchstat(w io.Writer) error {
	out := benchfmt.NewWriter(w)
	units := map[string]string{}
	for _, sc := range r.Scenarios {
		units[sc.Name] = map[string]string{"ns": "ns/op", "ops/s": "ops/s", "B": "B/conn"}[sc.Unit]
	}
	for _, res := range r.Results {
		for _, s := range res.Samples {
			if err := out.Write(r.benchResult(res, s, units[res.Scenario])); err != nil {
				return err
			}
		}
	}
	return nil
}

// benchResult returns one round as a benchmark result.
func (r Report) benchResult(res Result, s Sample, unit string) *benchfmt.Result {
	b := &benchfmt.Result{
		Name:   benchfmt.Name(fmt.Sprintf("%s/peer=%s", benchName(res.Scenario), res.Peer)),
		Iters:  s.Ops,
		Values: []benchfmt.Value{{Value: s.Value, Unit: unit}},
	}
	if s.Allocs > 0 { // counted
		b.Values = append(b.Values, benchfmt.Value{Value: s.Bytes, Unit: "B/op"}, benchfmt.Value{Value: s.Allocs, Unit: "allocs/op"})
	}
	for _, kv := range [][2]string{{"date", r.Date}, {"kernel", r.Kernel}, {"go", r.Go}, {"cpu", r.CPU}} {
		b.Config = append(b.Config, benchfmt.Config{Key: kv[0], Value: []byte(kv[1]), File: true})
	}
	return b
}

// benchName returns a scenario's name with the initial capital that the format
// demands.
func benchName(name string) string {
	return string(name[0]-'a'+'A') + name[1:]
}

// writeMarkdown writes the page that the README links to.
func (r Report) writeMarkdown(w io.Writer) error {
	fmt.Fprintf(w, "# Benchmark\n\n    %s\n\n%s.\n\n%s\n## Figures\n\n", r.Command, r.where(), aboutRun)
	fmt.Fprint(w, "![ratios](bench-ratios.svg)\n![cost against live connections](bench-live.svg)\n![cost against links](bench-links.svg)\n\n```\n")
	if err := r.writeTable(w); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, "```")
	return err
}

// aboutRun explains how the figures are made and why some goals are missed.
//
//go:embed about.md
var aboutRun string
