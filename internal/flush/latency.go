package flush

import (
	"time"

	"github.com/reusetransport/reuseport/internal/histogram"
	"github.com/reusetransport/reuseport/internal/sockopt"
)

// Latencies are how long closes took, from Add on, by how they ended.
type Latencies struct {
	Delivered histogram.Histogram // until everything was acknowledged
	Left      histogram.Histogram // until Counts.Left counted them
	Reset     histogram.Histogram // until Counts.Reset counted them
}

// Latencies returns how long closes took. It still grows.
func (f *Flusher) Latencies() *Latencies { return &f.latencies }

// noteDelivery records when a claimed connection had everything acknowledged. now is when an
// inspection found so, which may be late; on Linux the socket tells when the last
// acknowledgement came, to a tick of the kernel's clock (1 to 10 ms).
func (f *Flusher) noteDelivery(c *Closing, now time.Time) {
	if c.timed {
		return
	}
	c.timed = true
	took := now.Sub(c.closed)
	if since, err := sockopt.SinceACK(c.FD); err == nil {
		took -= since // what was acknowledged before Close takes no time
	}
	f.latencies.Delivered.Add(took)
}

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
