package promstats_test

import (
	"context"
	"net"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/promstats"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// register is Register, and fails the test where that fails.
func register(t testing.TB, reg prometheus.Registerer, tr *reuseport.Transport) (remove func()) {
	t.Helper()
	remove, err := promstats.Register(reg, tr)
	check(t, err)
	return remove
}

// listen makes tr listen on loopback until the test ends.
func listen(t testing.TB, tr *reuseport.Transport) {
	t.Helper()
	l, err := tr.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
	check(t, err)
	t.Cleanup(func() { l.Close() })
}

// peer listens on loopback and reads what it accepts until that ends.
func peer(t testing.TB) ma.Multiaddr {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			go func() {
				_, _ = c.Read(make([]byte, 1)) // nobody writes: it is the end
				_ = c.Close()
			}()
		}
	}()
	return address(t, l)
}

// dialRefused dials a port on which nobody listens.
func dialRefused(t testing.TB, tr *reuseport.Transport) {
	t.Helper()
	if c, err := tr.Dial(ma.StringCast("/ip4/127.0.0.1/tcp/1")); err == nil {
		c.Close()
		t.Error("port 1 is open")
	}
}

func address(t testing.TB, l net.Listener) ma.Multiaddr {
	t.Helper()
	m, err := manet.FromNetAddr(l.Addr())
	check(t, err)
	return m
}

// dial dials, and closes the connection when the test ends.
func dial(t testing.TB, tr *reuseport.Transport, raddr ma.Multiaddr) manet.Conn {
	t.Helper()
	c, err := tr.Dial(raddr)
	check(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// awaitDelivery waits until what was written to closed connections is acknowledged.
func awaitDelivery(t testing.TB, tr *reuseport.Transport) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	check(t, tr.Shutdown(ctx))
}

// gather returns the metrics by name.
func gather(t testing.TB, reg prometheus.Gatherer) map[string]*dto.MetricFamily {
	t.Helper()
	all, err := reg.Gather()
	check(t, err)
	byName := make(map[string]*dto.MetricFamily)
	for _, f := range all {
		byName[f.GetName()] = f
	}
	return byName
}

// value returns the value of one series, or how many observations a histogram has. label is the
// value of its last label by name, if it has one. A missing series fails the test.
func value(t testing.TB, reg prometheus.Gatherer, name, label string) float64 {
	t.Helper()
	for _, m := range gather(t, reg)["reuseport_"+name].GetMetric() {
		if labelOf(m) == label {
			return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount()) // two are nil
		}
	}
	t.Fatalf("no series reuseport_%s{%q}", name, label)
	return 0
}

func labelOf(m *dto.Metric) string {
	if len(m.GetLabel()) == 0 {
		return ""
	}
	return m.GetLabel()[len(m.GetLabel())-1].GetValue()
}

// wantValue checks one series.
func wantValue(t testing.TB, reg prometheus.Gatherer, name, label string, want float64) {
	t.Helper()
	if got := value(t, reg, name, label); got != want {
		t.Errorf("reuseport_%s{%q} is %v, want %v", name, label, got, want)
	}
}
