package libp2ptcp

import (
	"errors"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/promstats"
)

// connections counts the connections of all Transports that share a registerer. What their
// reuseport.Transports count is promstats' part.
type connections struct {
	opened, open      *prometheus.Desc
	inbound, outbound connCount
}

// connCount counts the connections of one direction.
type connCount struct{ opened, closed atomic.Int64 }

// metrics are what one Transport counts into.
type metrics struct {
	*connections
	leave func() // takes the reuseport.Transport out of promstats
}

// registerWith makes reg export the connections of a Transport and the Stats of r.
func registerWith(reg prometheus.Registerer, r *reuseport.Transport) (*metrics, error) {
	leave, err := promstats.Register(reg, r)
	if err != nil {
		return nil, err
	}
	c, err := connectionsOf(reg)
	if err != nil {
		leave()
		return nil, err
	}
	return &metrics{c, leave}, nil
}

// connectionsOf returns the connections that reg exports, and registers them first if it has
// none.
func connectionsOf(reg prometheus.Registerer) (*connections, error) {
	c := &connections{
		opened: prometheus.NewDesc("reuseport_connections_total", "Connections handed to the upgrader by direction.", []string{"direction"}, nil),
		open:   prometheus.NewDesc("reuseport_connections_open", "Connections open by direction.", []string{"direction"}, nil),
	}
	err := reg.Register(c)
	if err == nil {
		return c, nil
	}
	known, _ := errors.AsType[prometheus.AlreadyRegisteredError](err)
	if ours, ok := known.ExistingCollector.(*connections); ok {
		return ours, nil
	}
	return nil, err
}

// Describe implements prometheus.Collector.
func (c *connections) Describe(out chan<- *prometheus.Desc) { out <- c.opened; out <- c.open }

// Collect implements prometheus.Collector.
func (c *connections) Collect(out chan<- prometheus.Metric) {
	for label, n := range map[string]*connCount{"inbound": &c.inbound, "outbound": &c.outbound} {
		closed := n.closed.Load() // read before opened, so that the difference is never negative
		opened := n.opened.Load()
		out <- prometheus.MustNewConstMetric(c.opened, prometheus.CounterValue, float64(opened), label)
		out <- prometheus.MustNewConstMetric(c.open, prometheus.GaugeValue, float64(opened-closed), label)
	}
}

// opens counts a connection and returns the function that counts its end.
func (c *connections) opens(dir network.Direction) func() {
	n := &c.outbound
	if dir == network.DirInbound {
		n = &c.inbound
	}
	n.opened.Add(1)
	return func() { n.closed.Add(1) }
}
