package promstats

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/reusetransport/reuseport"
)

// The metrics. README.md has the same table (TestReadme), and the dashboard shows each
// (TestDashboard).
var (
	dials        = desc("dials_total", "Dials by what they returned: a connection from a listening port, one from a new port, an error. A punch whose own SYN connected is one of reused.", "result")
	dialDuration = desc("dial_duration_seconds", "How long dials took, by what they returned.", "result")
	newPort      = desc("new_port_dials_total", "Connections from a new port by cause.", "cause")
	hedges       = desc("hedges_total", "Second dials from a new port that the budget counts, started because the listening port got no answer.")
	handOvers    = desc("hand_overs_total", "Hedges in place of the last SYNs of a dial, which the budget of hedges does not count.")
	hedgeWins    = desc("hedge_wins_total", "Hedges that were answered first.")
	paths        = desc("paths", "Source addresses and listening ports by what dials from them have shown.", "state")

	punches   = desc("punches_total", "Hole punches by result.", "result")
	punchSYNs = desc("punch_syns_total", "SYNs that hole punches sent.")

	listeners     = desc("listeners", "Open listeners.")
	accepted      = desc("accepted_total", "Connections accepted.")
	acceptSkipped = desc("accept_skipped_total", "Connections that died in the accept queue.")
	acceptWaited  = desc("accept_delayed_total", "Times that accepting waited for descriptors or buffers.")

	closing       = desc("closes_pending", "Closed connections that still deliver.")
	closesCut     = desc("closes_cut_total", "Closes that did not deliver all while they were looked after, by who ended that.", "by")
	undelivered   = desc("undelivered_bytes_total", "Bytes that were not acknowledged when closes were cut.")
	closeDuration = desc("close_duration_seconds", "How long closes took: delivered until all is acknowledged, left until they are left to the system, reset until the peer ends them. Closes that the system completes are not in it.", "result")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("reuseport_"+name, help, labels, nil)
}

// eachCause has every cause of a connection from a new port. A series has to exist before it
// grows; otherwise its first increase is not seen (TestEveryCause).
func eachCause() map[reuseport.Cause]uint64 {
	return map[reuseport.Cause]uint64{
		reuseport.ByPolicy: 0, reuseport.NoListener: 0, reuseport.TupleInUse: 0, reuseport.BindConflict: 0,
		reuseport.AddrGone: 0, reuseport.BindDenied: 0, reuseport.SelfConnection: 0,
		reuseport.HedgeWon: 0, reuseport.PathSilent: 0, reuseport.ForeignOwner: 0,
	}
}

// emit sends every metric of s.
func emit(s reuseport.Stats, out chan<- prometheus.Metric) {
	emitDials(s, out)
	emitPaths(s.Paths, out)

	count(out, punches, s.Punched, "connected")
	count(out, punches, s.PunchesFailed, "failed")
	count(out, punchSYNs, s.PunchSYNs)

	gauge(out, listeners, s.Listeners)
	count(out, accepted, s.Accepted)
	count(out, acceptSkipped, s.AcceptSkipped)
	count(out, acceptWaited, s.AcceptDelayed)

	gauge(out, closing, s.ClosesPending)
	count(out, closesCut, s.ClosesAborted, "us")
	count(out, closesCut, s.ClosesReset, "peer")
	count(out, undelivered, s.BytesUndelivered)
	histogram(out, closeDuration, s.CloseLatency.Delivered, "delivered")
	histogram(out, closeDuration, s.CloseLatency.Left, "left")
	histogram(out, closeDuration, s.CloseLatency.Reset, "reset")
}

func emitDials(s reuseport.Stats, out chan<- prometheus.Metric) {
	count(out, dials, s.DialsReused, "reused")
	count(out, dials, s.DialsNew, "new")
	count(out, dials, s.DialsFailed, "failed")
	histogram(out, dialDuration, s.DialLatency.Reused, "reused")
	histogram(out, dialDuration, s.DialLatency.New, "new")
	histogram(out, dialDuration, s.DialLatency.Failed, "failed")
	for cause, n := range plusCauses(eachCause(), s.NewByCause) {
		count(out, newPort, n, cause.String())
	}
	count(out, hedges, s.Hedges)
	count(out, handOvers, s.HandOvers)
	count(out, hedgeWins, s.HedgeWins)
}

// emitPaths counts the paths by state. Their addresses are no labels, since there may be many.
func emitPaths(all []reuseport.Path, out chan<- prometheus.Metric) {
	states := map[reuseport.PathState]int{reuseport.PathUnproven: 0, reuseport.PathProven: 0, reuseport.PathBlocked: 0}
	for _, p := range all {
		states[p.State]++
	}
	for state, n := range states {
		gauge(out, paths, n, state.String())
	}
}

func count(out chan<- prometheus.Metric, d *prometheus.Desc, n uint64, label ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), label...)
}

func gauge(out chan<- prometheus.Metric, d *prometheus.Desc, n int, label ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), label...)
}

func histogram(out chan<- prometheus.Metric, d *prometheus.Desc, l reuseport.Latency, label ...string) {
	buckets := make(map[float64]uint64, len(l.Buckets))
	for _, b := range l.Buckets {
		buckets[b.UpTo] = b.Count
	}
	out <- prometheus.MustNewConstHistogram(d, l.Count, l.Seconds, buckets, label...)
}
