package promstats_test

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/reusetransport/reuseport"
)

// dashboard holds the parts of a Grafana dashboard that a test needs.
type dashboard struct {
	UID, Title string
	Panels     []panel
	Templating struct{ List []struct{ Name string } }
}

type panel struct {
	ID      int
	Title   string
	Type    string
	Targets []struct{ Expr, LegendFormat string }
	GridPos area
}

// area is where a panel is, in a grid of 24 columns.
type area struct{ H, W, X, Y int }

func (a area) overlaps(b area) bool {
	return a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	raw, err := os.ReadFile("dashboard.json")
	check(t, err)
	check(t, json.Unmarshal(raw, &d))
	return d
}

// registry returns one with a Transport that has done nothing.
func registry(t *testing.T) *prometheus.Registry {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	register(t, reg, new(reuseport.Transport))
	return reg
}

// series returns the labels of each metric that a query can name, and the values of each label.
// A histogram has its buckets.
func series(t *testing.T) map[string]map[string][]string {
	t.Helper()
	all := make(map[string]map[string][]string)
	for name, f := range gather(t, registry(t)) {
		labels := make(map[string][]string)
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = append(labels[l.GetName()], l.GetValue())
			}
		}
		if f.GetMetric()[0].GetHistogram() != nil {
			name += "_bucket"
			labels["le"] = nil
		}
		all[name] = labels
	}
	return all
}

// TestDashboard wants each expression to name metrics, labels and values that exist, and each
// metric to be shown.
func TestDashboard(t *testing.T) {
	known, shown := series(t), make(map[string]bool)
	exprs := 0
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			exprs++
			for _, name := range regexp.MustCompile(`reuseport_\w+`).FindAllString(target.Expr, -1) {
				shown[name] = true
				if known[name] == nil {
					t.Errorf("panel %q asks for %s, which does not exist", p.Title, name)
				}
				wantLabels(t, known[name], target.Expr, target.LegendFormat)
			}
		}
	}
	for name := range known {
		if !shown[name] {
			t.Errorf("no panel shows %s", name)
		}
	}
	if exprs < 10 {
		t.Errorf("%d expressions", exprs)
	}
}

// wantLabels wants an expression to group by and match labels that a metric has, and its legend
// to have a label by which it groups.
func wantLabels(t *testing.T, labels map[string][]string, expr, legend string) {
	t.Helper()
	var by []string
	for _, group := range regexp.MustCompile(`by \(([^)]*)\)`).FindAllStringSubmatch(expr, -1) {
		by = append(by, strings.Split(group[1], ", ")...)
	}
	for _, name := range by {
		if _, ok := labels[name]; !ok {
			t.Errorf("%s groups by %s", expr, name)
		}
	}
	for _, match := range regexp.MustCompile(`(\w+)!?="([^"]*)"`).FindAllStringSubmatch(expr, -1) {
		if !slices.Contains(labels[match[1]], match[2]) {
			t.Errorf("%s matches %s", expr, match[0])
		}
	}
	for _, name := range regexp.MustCompile(`{{(\w+)}}`).FindAllStringSubmatch(legend, -1) {
		if !slices.Contains(by, name[1]) {
			t.Errorf("%s shows as %s", expr, legend)
		}
	}
	if selects := `{instance=~"$instance",transport=~"$transport"`; strings.Count(expr, selects) != strings.Count(expr, "reuseport_") {
		t.Errorf("%s does not select instance and transport", expr)
	}
}

// TestDashboardLayout wants what Grafana imports: panels with ids of their own, beside each
// other, and the variables that the expressions use.
func TestDashboardLayout(t *testing.T) {
	d := readDashboard(t)
	ids := make(map[int]bool)
	for i, p := range d.Panels {
		if ids[p.ID] || p.Title == "" || p.Type == "" || p.GridPos.W < 1 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %+v", p)
		}
		ids[p.ID] = true
		for _, other := range d.Panels[:i] {
			if p.GridPos.overlaps(other.GridPos) {
				t.Errorf("%q lies on %q", p.Title, other.Title)
			}
		}
	}
	vars := make(map[string]bool)
	for _, v := range d.Templating.List {
		vars[v.Name] = true
	}
	if want := map[string]bool{"datasource": true, "instance": true, "transport": true}; !maps.Equal(vars, want) || d.UID == "" || d.Title == "" {
		t.Errorf("variables %v of %q %q", vars, d.UID, d.Title)
	}
}
