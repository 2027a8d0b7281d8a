package promstats_test

import (
	"errors"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/promstats"
)

// TestRegister: what a Transport did before and after it was registered is in its metrics.
func TestRegister(t *testing.T) {
	var tr reuseport.Transport
	listen(t, &tr)
	raddr := peer(t)
	check(t, dial(t, &tr, raddr).Close()) // reused
	reg := prometheus.NewPedanticRegistry()
	register(t, reg, &tr)
	dial(t, &tr, peer(t))
	dial(t, &tr, peer(t))
	c, err := tr.DialContext(reuseport.WithPortUse(t.Context(), reuseport.NewPort), raddr)
	check(t, err)
	defer c.Close()
	for range 2 {
		dialRefused(t, &tr)
	}
	wantValue(t, reg, "listeners", "", 1)
	awaitDelivery(t, &tr)
	check(t, testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP reuseport_accepted_total Connections accepted.
# TYPE reuseport_accepted_total counter
reuseport_accepted_total 0
# HELP reuseport_closes_cut_total Closes that did not deliver all while they were looked after, by who ended that.
# TYPE reuseport_closes_cut_total counter
reuseport_closes_cut_total{by="peer"} 0
reuseport_closes_cut_total{by="us"} 0
# HELP reuseport_closes_pending Closed connections that still deliver.
# TYPE reuseport_closes_pending gauge
reuseport_closes_pending 0
# HELP reuseport_dials_total Dials by what they returned: a connection from a listening port, one from a new port, an error. A punch whose own SYN connected is one of reused.
# TYPE reuseport_dials_total counter
reuseport_dials_total{result="failed"} 2
reuseport_dials_total{result="new"} 1
reuseport_dials_total{result="reused"} 3
# HELP reuseport_listeners Open listeners.
# TYPE reuseport_listeners gauge
reuseport_listeners 0
# HELP reuseport_paths Source addresses and listening ports by what dials from them have shown.
# TYPE reuseport_paths gauge
reuseport_paths{state="blocked"} 0
reuseport_paths{state="proven"} 0
reuseport_paths{state="unproven"} 0
`), "reuseport_accepted_total", "reuseport_closes_cut_total", "reuseport_closes_pending", "reuseport_dials_total", "reuseport_listeners", "reuseport_paths"))
	wantValue(t, reg, "new_port_dials_total", "policy", 1)
	wantValue(t, reg, "new_port_dials_total", "no listener", 0)
	for result, n := range map[string]float64{"reused": 3, "new": 1, "failed": 2} {
		wantValue(t, reg, "dial_duration_seconds", result, n)
	}
	if runtime.GOOS == "linux" {
		wantValue(t, reg, "close_duration_seconds", "delivered", 1)
	}
}

// TestHistogram: a dial that takes half a second is in the buckets above and not below.
func TestHistogram(t *testing.T) {
	var tr reuseport.Transport
	tr.Control = func(string, string, syscall.RawConn) error { time.Sleep(500 * time.Millisecond); return nil }
	reg := prometheus.NewPedanticRegistry()
	register(t, reg, &tr)
	dial(t, &tr, peer(t))
	for _, m := range gather(t, reg)["reuseport_dial_duration_seconds"].GetMetric() {
		h := m.GetHistogram()
		if labelOf(m) != "new" {
			if len(h.GetBucket()) == 0 || h.GetSampleCount() != 0 {
				t.Errorf("%s: %v", labelOf(m), h)
			}
			continue
		}
		if h.GetSampleCount() != 1 || h.GetSampleSum() < 0.5 || h.GetSampleSum() > 60 {
			t.Errorf("%d dials in %v s", h.GetSampleCount(), h.GetSampleSum())
		}
		for _, b := range h.GetBucket() {
			if within := b.GetCumulativeCount() == 1; within != (b.GetUpperBound() >= h.GetSampleSum()) {
				t.Errorf("within %v s: %v; it took %v s", b.GetUpperBound(), within, h.GetSampleSum())
			}
		}
	}
}

// TestRegisterAgain: a Transport counts once, however often it is registered, and until the
// last one has removed it. Then its counts stay. Added again, it does not count twice.
func TestRegisterAgain(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	var tr reuseport.Transport
	listen(t, &tr)
	first, second := register(t, reg, &tr), register(t, reg, &tr)
	dial(t, &tr, peer(t))
	wantValue(t, reg, "dials_total", "reused", 1)
	wantValue(t, reg, "listeners", "", 1)
	first()
	first()
	dial(t, &tr, peer(t))
	wantValue(t, reg, "dials_total", "reused", 2)
	second()
	wantValue(t, reg, "dials_total", "reused", 2)
	wantValue(t, reg, "dial_duration_seconds", "reused", 2)
	wantValue(t, reg, "listeners", "", 0)
	dial(t, &tr, peer(t))
	wantValue(t, reg, "dials_total", "reused", 2)
	register(t, reg, &tr)
	wantValue(t, reg, "dials_total", "reused", 3)
	wantValue(t, reg, "listeners", "", 1)
}

// TestRemovedIsForgotten: a Transport that was removed can be collected, and its counts stay.
func TestRemovedIsForgotten(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	freed := make(chan struct{})
	func() {
		tr := new(reuseport.Transport)
		runtime.AddCleanup(tr, func(int) { close(freed) }, 0)
		remove := register(t, reg, tr)
		dialRefused(t, tr)
		remove()
	}()
	for end := time.After(20 * time.Second); ; {
		runtime.GC()
		select {
		case <-freed:
			wantValue(t, reg, "dials_total", "failed", 1)
			wantValue(t, reg, "dials_total", "failed", 1)
			return
		case <-end:
			t.Fatal("still in memory")
		case <-time.After(time.Millisecond):
		}
	}
}

// global is in no heap, of which weak pointers know.
var global reuseport.Transport

// TestGlobal: a Transport may be a global variable.
func TestGlobal(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	dialRefused(t, &global)
	failed := float64(global.Stats().DialsFailed)
	register(t, reg, &global)()
	wantValue(t, reg, "dials_total", "failed", failed)
	register(t, reg, &global)
	wantValue(t, reg, "dials_total", "failed", failed)
}

// TestSeveral: Transports with one registerer add up, and those with labels stand apart.
func TestSeveral(t *testing.T) {
	var a, b reuseport.Transport
	listen(t, &a)
	listen(t, &b)
	dial(t, &a, peer(t))
	dial(t, &b, peer(t))
	dial(t, &b, peer(t))
	sum := prometheus.NewPedanticRegistry()
	register(t, sum, &a)
	register(t, sum, &b)
	wantValue(t, sum, "dials_total", "reused", 3)
	wantValue(t, sum, "dial_duration_seconds", "reused", 3)
	wantValue(t, sum, "listeners", "", 2)

	apart := prometheus.NewPedanticRegistry()
	for range 2 {
		register(t, prometheus.WrapRegistererWith(prometheus.Labels{"transport": "a"}, apart), &a)
		register(t, prometheus.WrapRegistererWith(prometheus.Labels{"transport": "b"}, apart), &b)
	}
	wantValue(t, apart, "listeners", "a", 1)
	wantValue(t, apart, "accepted_total", "b", 0)
	for _, m := range gather(t, apart)["reuseport_dials_total"].GetMetric() {
		n := map[string]float64{"a": 1, "b": 2}[labelOf(m)] // labels are sorted: result, transport
		if m.GetLabel()[0].GetValue() == "reused" && m.GetCounter().GetValue() != n {
			t.Errorf("%v", m)
		}
	}
	wantErr(t, apart, &a)
}

// TestNamesTaken: something else that has a name, or all of them, is an error.
func TestNamesTaken(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	check(t, reg.Register(prometheus.NewGauge(prometheus.GaugeOpts{Name: "reuseport_listeners", Help: "Mine."})))
	wantErr(t, reg, new(reuseport.Transport))
	reg = prometheus.NewPedanticRegistry()
	check(t, reg.Register(namesake{}))
	if err := wantErr(t, reg, new(reuseport.Transport)); !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		t.Errorf("error %v, want one that takes a namesake for a Collector", err)
	}
}

func wantErr(t *testing.T, reg prometheus.Registerer, tr *reuseport.Transport) error {
	t.Helper()
	remove, err := promstats.Register(reg, tr)
	if err == nil || remove != nil {
		t.Errorf("error %v", err)
	}
	return err
}

// namesake describes what a Collector does and is none.
type namesake struct{}

func (namesake) Describe(out chan<- *prometheus.Desc) { new(promstats.Collector).Describe(out) }
func (namesake) Collect(chan<- prometheus.Metric)     {}

// TestLint runs Prometheus' own linter.
func TestLint(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	register(t, reg, new(reuseport.Transport))
	problems, err := testutil.GatherAndLint(reg)
	check(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestEveryCause wants a series for every cause before the first dial. A new cause in reuseport
// needs one here.
func TestEveryCause(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	register(t, reg, new(reuseport.Transport))
	for c := reuseport.NoCause + 1; !strings.HasPrefix(c.String(), "Cause("); c++ {
		wantValue(t, reg, "new_port_dials_total", c.String(), 0)
	}
}

// TestAtOnce gathers while Transports dial, and are added and removed: no counter falls, and
// what is inconsistent fails in the registry.
func TestAtOnce(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	var wg sync.WaitGroup
	const workers, each = 4, 20
	for range workers {
		wg.Go(func() {
			var tr reuseport.Transport
			for range each {
				remove, err := promstats.Register(reg, &tr)
				if err != nil {
					t.Error(err)
					return
				}
				dialRefused(t, &tr)
				remove()
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	register(t, reg, new(reuseport.Transport))
	for last := 0.0; ; {
		now := value(t, reg, "dials_total", "failed")
		if now < last {
			t.Errorf("fell from %v to %v", last, now)
		}
		last = now
		select {
		case <-done:
			wantValue(t, reg, "dials_total", "failed", workers*each)
			return
		default:
		}
	}
}
