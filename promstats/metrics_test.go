package promstats

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/reusetransport/reuseport"
)

// fixed is a Collector of these Stats.
type fixed reuseport.Stats

func (f fixed) Describe(out chan<- *prometheus.Desc) { new(Collector).Describe(out) }
func (f fixed) Collect(out chan<- prometheus.Metric) { emit(reuseport.Stats(f), out) }

// TestEmit wants each number of Stats in a series. A new field in reuseport needs a metric here.
func TestEmit(t *testing.T) {
	s, numbers := distinct()
	shown := make(map[float64]string)
	for name, m := range gathered(t, fixed(s)) {
		h := m.GetHistogram()
		shown[m.GetCounter().GetValue()+m.GetGauge().GetValue()+float64(h.GetSampleCount())] = name // two are nil
		shown[h.GetSampleSum()] = name + " sum"
		for _, b := range h.GetBucket() {
			shown[float64(b.GetCumulativeCount())] = fmt.Sprint(name, " within ", b.GetUpperBound())
		}
	}
	for _, n := range numbers {
		if shown[n] == "" {
			t.Errorf("%v is in no series; Stats is %+v", n, s)
		}
	}
	dial, end := s.DialLatency, s.CloseLatency
	for name, n := range map[string]uint64{
		"dials_total reused": s.DialsReused, "dials_total new": s.DialsNew, "dials_total failed": s.DialsFailed,
		"dial_duration_seconds reused": dial.Reused.Count, "dial_duration_seconds new": dial.New.Count, "dial_duration_seconds failed": dial.Failed.Count,
		"dial_duration_seconds new within 2": dial.New.Buckets[1].Count,
		"new_port_dials_total policy":        501, "new_port_dials_total hedge won": 502,
		"hedges_total ": s.Hedges, "hand_overs_total ": s.HandOvers, "hedge_wins_total ": s.HedgeWins,
		"punches_total connected": s.Punched, "punches_total failed": s.PunchesFailed, "punch_syns_total ": s.PunchSYNs,
		"listeners ": uint64(s.Listeners), "accepted_total ": s.Accepted,
		"accept_skipped_total ": s.AcceptSkipped, "accept_delayed_total ": s.AcceptDelayed,
		"closes_pending ": uint64(s.ClosesPending), "closes_cut_total us": s.ClosesAborted, "closes_cut_total peer": s.ClosesReset,
		"undelivered_bytes_total ":         s.BytesUndelivered,
		"close_duration_seconds delivered": end.Delivered.Count, "close_duration_seconds left": end.Left.Count, "close_duration_seconds reset": end.Reset.Count,
	} {
		if got := shown[float64(n)]; got != "reuseport_"+name {
			t.Errorf("%d is in %q, want %q", n, got, name)
		}
	}
}

// TestEmitPaths counts paths by state.
func TestEmitPaths(t *testing.T) {
	s := fixed{Paths: []reuseport.Path{{State: reuseport.PathBlocked}, {State: reuseport.PathProven}, {State: reuseport.PathBlocked}}}
	all := gathered(t, s)
	for state, want := range map[string]float64{"unproven": 0, "proven": 1, "blocked": 2} {
		if got := all["reuseport_paths "+state].GetGauge(); got == nil || got.GetValue() != want {
			t.Errorf("%s: %v, want %v", state, got, want)
		}
	}
}

// gathered returns the series of a collector by name and label.
func gathered(t *testing.T, c prometheus.Collector) map[string]*dto.Metric {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]*dto.Metric)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName() + " "
			for _, l := range m.GetLabel() {
				name += l.GetValue()
			}
			all[name] = m
		}
	}
	return all
}
