//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/perf/benchfmt"
)

// TestMain makes the test binary a worker when it is started as one, as the program
// does.
func TestMain(m *testing.M) {
	if isWorker() {
		if err := serveWorker(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// Otherwise each worker would sleep for a second when it exits under the race
	// detector.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// skip skips a test, or fails it if CI is set.
func skip(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("CI must not skip: "+format, args...)
	}
	t.Skipf(format, args...)
}

// smoke runs the scenarios that match briefly.
func smoke(t *testing.T, match string) Report {
	t.Helper()
	p, rows, err := newPlan("smoke", match, nil)
	if err != nil {
		t.Fatal(err)
	}
	return newReport("smoke", rows, p.runAll(rows))
}

// cannot holds the peers that cannot run a scenario, with a part of the reason.
var cannot = map[string]string{
	"dial/held/" + naive: "cannot assign requested address",
}

// checkMeasured fails the test for each peer that has no samples and no known reason.
func checkMeasured(t *testing.T, r Report) {
	t.Helper()
	for _, res := range r.Results {
		want := cannot[res.Scenario+"/"+res.Peer]
		if res.Err != "" && want == "" || !strings.Contains(res.Err, want) {
			t.Errorf("%s, %s: %q, want %q", res.Scenario, res.Peer, res.Err, want)
		}
		if res.Err == "" && len(res.Samples) == 0 {
			t.Errorf("%s, %s: no samples", res.Scenario, res.Peer)
		}
	}
}

// TestLoopbackScenarios runs everything that needs no namespace, with every peer.
func TestLoopbackScenarios(t *testing.T) {
	r := smoke(t, "^(dial/(unspecified|loopback|refused|held|live)|parallel|accept|heap|close|listen)")
	checkMeasured(t, r)
	for _, sc := range r.Scenarios {
		for _, o := range r.outcomes(sc) {
			if o.What != "ratio" && !(o.known && o.met()) {
				t.Errorf("%s: %s, got %v", o.title, o.Goal, o.got)
			}
		}
	}
}

// TestLinkScenarios runs what needs a namespace.
func TestLinkScenarios(t *testing.T) {
	if err := namespaceRefused(); err != nil {
		skip(t, "no network namespace: %v", err)
	}
	r := smoke(t, "^dial/(specific|two-ports|global|silent)")
	checkMeasured(t, r)
}

// namespaceRefused returns why network namespaces are refused, or nil.
func namespaceRefused() error {
	w, err := spawn(workerOptions{newNet: true, newUser: os.Getuid() != 0})
	if err != nil {
		return err
	}
	return w.close()
}

// TestFiles checks each form of the output, and that a picture names the conditions
// of its run.
func TestFiles(t *testing.T) {
	r := smoke(t, "^(dial/unspecified|dial/live)")
	dir := t.TempDir()
	if err := r.writeFiles(dir); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(read(t, dir, "bench.json"), &back); err != nil || len(back.Results) != len(r.Results) {
		t.Errorf("bench.json: %d results, %v", len(back.Results), err)
	}
	for _, name := range []string{"bench-ratios.svg", "bench-live.svg"} {
		for _, want := range []string{r.Date, r.Kernel, r.Go, ours} {
			if !bytes.Contains(read(t, dir, name), []byte(want)) {
				t.Errorf("%s does not show %q", name, want)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "bench-links.svg")); !os.IsNotExist(err) {
		t.Errorf("a picture without data: %v", err)
	}
	checkBenchstat(t, read(t, dir, "bench.txt"), len(r.Results)*2)
}

// checkBenchstat reads the lines as benchstat does.
func checkBenchstat(t *testing.T, text []byte, want int) {
	t.Helper()
	lines := benchfmt.NewReader(bytes.NewReader(text), "bench.txt")
	n := 0
	for ; lines.Scan(); n++ {
		res, ok := lines.Result().(*benchfmt.Result)
		if !ok {
			t.Fatalf("bench.txt: %v", lines.Result())
		}
		if v, ok := res.Value("sec/op"); !ok || v <= 0 {
			t.Errorf("%s has no time", res.Name)
		}
		for _, key := range []string{"date", "kernel", "go", "cpu"} {
			if res.GetConfig(key) == "" {
				t.Errorf("%s has no %s", res.Name, key)
			}
		}
	}
	if n != want {
		t.Errorf("bench.txt has %d results, want %d", n, want)
	}
}

// read reads a file.
func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPublished wants the published page to contain this version's explanation.
func TestPublished(t *testing.T) {
	if !bytes.Contains(read(t, "../docs", "bench.md"), []byte(aboutRun)) {
		t.Error("docs/bench.md does not contain about.md")
	}
}

func TestSpread(t *testing.T) {
	for _, row := range []struct {
		values []float64
		want   spread
	}{
		{nil, spread{}},
		{[]float64{3}, spread{3, 3, 3}},
		{[]float64{5, 1, 4, 2, 3}, spread{2, 3, 4}},
		{[]float64{1, 2}, spread{1.25, 1.5, 1.75}},
	} {
		if got := spreadOf(row.values); got != row.want {
			t.Errorf("quartiles of %v are %v, want %v", row.values, got, row.want)
		}
	}
}

// TestGoals wants a goal at its limit to be met, and a lower bound to be one.
func TestGoals(t *testing.T) {
	for _, row := range []struct {
		goal Goal
		got  float64
		met  bool
	}{
		{atMost(plain, 1.02), 1.02, true},
		{atMost(plain, 1.02), 1.03, false},
		{atLeast(plain, 0.98), 0.97, false},
		{atLeast(plain, 0.98), 1.5, true},
		{everyone(), 0.99, false},
	} {
		if got := (outcome{Goal: row.goal, got: row.got}).met(); got != row.met {
			t.Errorf("%v with %v: met is %v", row.goal, row.got, got)
		}
	}
}

func TestPlanRefusesNonsense(t *testing.T) {
	for _, row := range []struct {
		scale, match string
		peers        []string
	}{
		{"long", "", nil}, {"quick", "(", nil}, {"quick", "no such scenario", nil}, {"quick", "", []string{"nobody"}},
	} {
		if _, _, err := newPlan(row.scale, row.match, row.peers); err == nil {
			t.Errorf("newPlan(%q, %q, %q) has no error", row.scale, row.match, row.peers)
		}
	}
}
