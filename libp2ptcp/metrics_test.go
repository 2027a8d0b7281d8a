package libp2ptcp_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/libp2ptcp"
)

// want is a metric, its label and its value.
type want struct {
	name, label string
	value       float64
}

func wantMetrics(t testing.TB, reg *prometheus.Registry, all ...want) {
	t.Helper()
	for _, w := range all {
		if got := metric(t, reg, "reuseport_"+w.name, w.label); got != w.value {
			t.Errorf("reuseport_%s{%q} is %v, want %v", w.name, w.label, got, w.value)
		}
	}
}

// TestMetrics dials in every way and reads the counts.
func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	peerA, a := peerSetup{}.transport(t)
	raddr := listen(t, a, "/ip4/127.0.0.1/tcp/0")
	_, b := peerSetup{}.transport(t, libp2ptcp.WithMetrics(reg))
	listen(t, b, "/ip4/127.0.0.1/tcp/0")
	tcpOf(t, t.Context(), b, raddr, peerA)                                           // reused
	tcpOf(t, t.Context(), b, raddr, peerA)                                           // its 4-tuple is taken
	tcpOf(t, reuseport.WithPortUse(t.Context(), reuseport.NewPort), b, raddr, peerA) // by policy
	if _, err := b.Dial(t.Context(), refusing(t), peerA); err == nil {
		t.Error("a refused dial succeeded")
	}
	if _, err := b.Dial(punching(t.Context()), raddr, peerA); err == nil {
		t.Error("a punch with a taken 4-tuple succeeded")
	}
	wantMetrics(t, reg,
		want{"dials_total", "reused", 1}, want{"dials_total", "new", 2}, want{"dials_total", "failed", 1},
		want{"new_port_dials_total", "4-tuple in use", 1}, want{"new_port_dials_total", "policy", 1},
		want{"new_port_dials_total", "hedge won", 0},
		want{"punches_total", "failed", 1}, want{"punches_total", "connected", 0},
		want{"connections_open", "outbound", 3}, want{"connections_total", "outbound", 3},
		want{"connections_open", "inbound", 0}, want{"listeners", "", 1}, want{"hedges_total", "", 0},
	)
}

// TestMetricsOfSeveral gives one registerer to two hosts, one of which leaves, and then
// to a Transport that has worked before.
func TestMetricsOfSeveral(t *testing.T) {
	reg := prometheus.NewRegistry()
	peerA, a := peerSetup{}.transport(t)
	raddr := listen(t, a, "/ip4/127.0.0.1/tcp/0")
	dialOnce := func(tr *libp2ptcp.Transport) {
		c, err := tr.Dial(t.Context(), raddr, peerA)
		check(t, err)
		check(t, c.Close())
	}
	_, b := peerSetup{}.transport(t, libp2ptcp.WithMetrics(reg))
	_, c := peerSetup{}.transport(t, libp2ptcp.WithMetrics(reg))
	dialOnce(b)
	dialOnce(c)
	wantMetrics(t, reg, want{"dials_total", "new", 2}, want{"connections_open", "outbound", 0})
	check(t, b.Close())
	check(t, b.Close())
	wantMetrics(t, reg, want{"dials_total", "new", 2})

	var r reuseport.Transport
	for range 2 { // the second time it is a former member
		tcp, err := r.Dial(raddr)
		check(t, err)
		check(t, tcp.Close())
		_, d := peerSetup{}.transport(t, libp2ptcp.WithMetrics(reg), libp2ptcp.WithTransport(&r))
		dialOnce(d)
		check(t, d.Close())
	}
	wantMetrics(t, reg, want{"dials_total", "new", 4})
}

// TestMetricsWellNamed runs Prometheus's own linter.
func TestMetricsWellNamed(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	peerSetup{}.transport(t, libp2ptcp.WithMetrics(reg))
	problems, err := testutil.GatherAndLint(reg)
	check(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestCausesComplete wants a series for every cause. A new cause in reuseport needs
// one here.
func TestCausesComplete(t *testing.T) {
	reg := prometheus.NewRegistry()
	peerSetup{}.transport(t, libp2ptcp.WithMetrics(reg))
	for c := reuseport.NoCause + 1; !strings.HasPrefix(c.String(), "Cause("); c++ {
		wantMetrics(t, reg, want{"new_port_dials_total", c.String(), 0})
	}
}

// dashboard holds the parts of a Grafana dashboard that a test needs.
type dashboard struct {
	Inputs []struct{ Name, Type, PluginID string } `json:"__inputs"`
	UID    string
	Title  string
	Panels []struct {
		ID      int
		Title   string
		Type    string
		Targets []struct{ Expr string }
		GridPos struct{ H, W, X, Y int }
	}
}

// TestDashboardNamesMetrics wants each expression of the dashboard to use an existing
// metric, and each metric to be on the dashboard.
func TestDashboardNamesMetrics(t *testing.T) {
	raw, err := os.ReadFile("dashboard.json")
	check(t, err)
	var d dashboard
	check(t, json.Unmarshal(raw, &d))
	unused := map[string]bool{}
	for _, name := range metricNames(t) {
		unused[name] = true
	}
	known := len(unused)
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			for _, name := range regexp.MustCompile(`reuseport_\w+`).FindAllString(target.Expr, -1) {
				if _, there := unused[name]; !there {
					t.Errorf("panel %q asks for %s, which does not exist", p.Title, name)
				}
				unused[name] = false
			}
		}
	}
	for name, still := range unused {
		if still {
			t.Errorf("no panel shows %s", name)
		}
	}
	if known < 10 || len(d.Inputs) != 1 || d.Inputs[0].Type != "datasource" || d.UID == "" || d.Title == "" {
		t.Errorf("%d metrics; not what Grafana imports: %+v", known, d)
	}
}
