// Package promstats exports what reuseport Transports count to Prometheus. [Register] is all
// that most programs need:
//
//	var t reuseport.Transport
//	_, err := promstats.Register(prometheus.DefaultRegisterer, &t)
//
// Transports that share a registerer add up. To tell them apart, give each a label:
//
//	reg := prometheus.WrapRegistererWith(prometheus.Labels{"transport": "api"}, prometheus.DefaultRegisterer)
//	_, err := promstats.Register(reg, &t)
//
// The README lists the metrics, and dashboard.json shows them in Grafana.
package promstats

import (
	"errors"
	"sync"
	"weak"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/reusetransport/reuseport"
)

// Collector is a prometheus.Collector of the sums of what its Transports have counted. The
// zero value is ready and has no Transport. All methods are safe for concurrent use.
type Collector struct {
	mu      sync.Mutex
	users   map[*reuseport.Transport]int // how many Adds have not been undone
	removed map[weak.Pointer[reuseport.Transport]]reuseport.Stats
	gone    reuseport.Stats // the sum of those removed that no longer exist
}

var _ prometheus.Collector = (*Collector)(nil)

// Register adds t to the Collector that reg has, and registers one first if reg has none.
// Doing so twice counts t once. What remove does is said at [Collector.Add].
//
// The error is that of reg.Register, if something else has the names of the metrics or if reg
// has a Collector with other labels.
func Register(reg prometheus.Registerer, t *reuseport.Transport) (remove func(), err error) {
	c := new(Collector)
	if err := reg.Register(c); err != nil {
		known, _ := errors.AsType[prometheus.AlreadyRegisteredError](err)
		ours, ok := known.ExistingCollector.(*Collector)
		if !ok {
			return nil, err
		}
		c = ours
	}
	return c.Add(t), nil
}

// Add makes t one of the Transports of c, with all that it has counted before. A Transport
// counts once, however often it is added.
//
// remove takes it out again; of several Adds the last remove does. What t has counted by then
// stays in the sums, since a counter must not fall, and its listeners, paths and pending closes
// do not. t may be added again. A second call of remove does nothing. Until remove is called, c
// keeps t in memory.
func (c *Collector) Add(t *reuseport.Transport) (remove func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users == nil {
		c.users = make(map[*reuseport.Transport]int)
		c.removed = make(map[weak.Pointer[reuseport.Transport]]reuseport.Stats)
	}
	c.users[t]++
	delete(c.removed, weak.Make(t)) // its Stats have that too
	return sync.OnceFunc(func() { c.remove(t) })
}

func (c *Collector) remove(t *reuseport.Transport) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users[t]--; c.users[t] > 0 {
		return
	}
	delete(c.users, t)
	c.removed[weak.Make(t)] = counters(t.Stats())
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	prometheus.DescribeByCollect(new(Collector), out) // the same ones, without asking a Transport
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	emit(c.sum(), out)
}

// sum adds up the Transports, also those that were removed.
func (c *Collector) sum() reuseport.Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	for t, s := range c.removed {
		if t.Value() == nil { // it cannot be added again
			c.gone = plus(c.gone, s)
			delete(c.removed, t)
		}
	}
	sum := c.gone
	for _, s := range c.removed {
		sum = plus(sum, s)
	}
	for t := range c.users {
		sum = plus(sum, t.Stats())
	}
	return sum
}
