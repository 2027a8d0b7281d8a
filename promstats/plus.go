package promstats

import (
	"maps"
	"slices"

	"github.com/reusetransport/reuseport"
)

// plus adds up the Stats of two Transports. It changes neither.
func plus(a, b reuseport.Stats) reuseport.Stats {
	return reuseport.Stats{
		DialsReused: a.DialsReused + b.DialsReused,
		DialsNew:    a.DialsNew + b.DialsNew,
		DialsFailed: a.DialsFailed + b.DialsFailed,
		NewByCause:  plusCauses(a.NewByCause, b.NewByCause),
		DialLatency: reuseport.DialLatency{
			Reused: plusLatency(a.DialLatency.Reused, b.DialLatency.Reused),
			New:    plusLatency(a.DialLatency.New, b.DialLatency.New),
			Failed: plusLatency(a.DialLatency.Failed, b.DialLatency.Failed),
		},

		Hedges:    a.Hedges + b.Hedges,
		HandOvers: a.HandOvers + b.HandOvers,
		HedgeWins: a.HedgeWins + b.HedgeWins,
		Paths:     slices.Concat(a.Paths, b.Paths),

		Punched:       a.Punched + b.Punched,
		PunchesFailed: a.PunchesFailed + b.PunchesFailed,
		PunchSYNs:     a.PunchSYNs + b.PunchSYNs,

		Listeners:     a.Listeners + b.Listeners,
		Accepted:      a.Accepted + b.Accepted,
		AcceptSkipped: a.AcceptSkipped + b.AcceptSkipped,
		AcceptDelayed: a.AcceptDelayed + b.AcceptDelayed,

		ClosesPending:    a.ClosesPending + b.ClosesPending,
		ClosesAborted:    a.ClosesAborted + b.ClosesAborted,
		ClosesReset:      a.ClosesReset + b.ClosesReset,
		BytesUndelivered: a.BytesUndelivered + b.BytesUndelivered,
		CloseLatency: reuseport.CloseLatency{
			Delivered: plusLatency(a.CloseLatency.Delivered, b.CloseLatency.Delivered),
			Left:      plusLatency(a.CloseLatency.Left, b.CloseLatency.Left),
			Reset:     plusLatency(a.CloseLatency.Reset, b.CloseLatency.Reset),
		},
	}
}

func plusCauses(a, b map[reuseport.Cause]uint64) map[reuseport.Cause]uint64 {
	sum := make(map[reuseport.Cause]uint64)
	maps.Copy(sum, a)
	for cause, n := range b {
		sum[cause] += n
	}
	return sum
}

// plusLatency adds up two histograms, which have the same bounds unless one is the zero
// Latency, which has none.
func plusLatency(a, b reuseport.Latency) reuseport.Latency {
	if len(a.Buckets) == 0 {
		a, b = b, a
	}
	sum := reuseport.Latency{Count: a.Count + b.Count, Seconds: a.Seconds + b.Seconds, Buckets: slices.Clone(a.Buckets)}
	for i, bucket := range b.Buckets {
		sum.Buckets[i].Count += bucket.Count
	}
	return sum
}

// counters returns s without its momentary values.
func counters(s reuseport.Stats) reuseport.Stats {
	s.Listeners, s.ClosesPending, s.Paths = 0, 0, nil
	return s
}
