package libp2ptcp_test

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/libp2ptcp"
	"github.com/reusetransport/reuseport/promstats"
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
// to a Transport that has worked before, whose every dial counts once.
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
	wantMetrics(t, reg, want{"dials_total", "new", 6})
}

// TestMetricsBeside: what the host shares a registerer with may register its own Transports too.
func TestMetricsBeside(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	peerSetup{}.transport(t, libp2ptcp.WithMetrics(reg))
	var r reuseport.Transport
	_, err := promstats.Register(reg, &r)
	check(t, err)
	if _, err := r.Dial(refusing(t)); err == nil {
		t.Error("a refused dial succeeded")
	}
	wantMetrics(t, reg, want{"dials_total", "failed", 1})
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

// TestDashboardNamesMetrics wants each expression of the dashboard to use an existing
// metric, and each metric that is not promstats' to be on the dashboard.
func TestDashboardNamesMetrics(t *testing.T) {
	raw, err := os.ReadFile("dashboard.json")
	check(t, err)
	var d struct {
		UID, Title string
		Panels     []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	check(t, json.Unmarshal(raw, &d))
	all, shown := metricNames(t), map[string]bool{}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			for _, name := range regexp.MustCompile(`reuseport_\w+`).FindAllString(target.Expr, -1) {
				shown[name] = true
				if !slices.Contains(all, name) {
					t.Errorf("panel %q asks for %s, which does not exist", p.Title, name)
				}
			}
		}
	}
	for _, name := range ownMetricNames(t) {
		if !shown[name] {
			t.Errorf("no panel shows %s", name)
		}
	}
	if d.UID == "" || d.Title == "" {
		t.Errorf("not what Grafana imports: %+v", d)
	}
}
