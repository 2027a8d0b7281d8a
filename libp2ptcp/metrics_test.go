package libp2ptcp_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// metric reads one value; label is that of the metric's only label, if it has one.
// A metric that is not there is a failure.
func metric(t testing.TB, reg *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := reg.Gather()
	check(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && labelOf(m) == label {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() // one of them is nil
			}
		}
	}
	t.Fatalf("no metric %s{%q}", name, label)
	return 0
}

func labelOf(m *dto.Metric) string {
	if len(m.GetLabel()) == 0 {
		return ""
	}
	return m.GetLabel()[0].GetValue()
}
