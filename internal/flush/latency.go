package flush

import (
	"time"

	"github.com/reusetransport/reuseport/internal/histogram"
)

// Latencies are how long closes took, from Add on, by how they ended.
type Latencies struct {
	Delivered histogram.Histogram // until everything was acknowledged
	Left      histogram.Histogram // until Counts.Left counted them
	Reset     histogram.Histogram // until Counts.Reset counted them
}

// Latencies returns how long closes took. It still grows.
func (f *Flusher) Latencies() *Latencies { return &f.latencies }

// noteLatency records how long a connection took that ends now by v.
func (f *Flusher) noteLatency(c *Closing, v verdict) {
	took := time.Since(c.closed)
	switch {
	case v == left:
		f.latencies.Left.Add(took)
	case v == lost:
		f.latencies.Reset.Add(took)
	case !c.timed: // where the system does not tell what is acknowledged
		f.latencies.Delivered.Add(took)
	}
}
