package libp2ptcp

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/reusetransport/reuseport"
)

// collector exports the counts of all Transports that share a registerer. The README
// and the dashboard name its metrics (TestReadme, TestDashboardNamesMetrics).
type collector struct {
	dials, newPort, hedges, hedgeWins     *prometheus.Desc
	punches, punchSYNs                    *prometheus.Desc
	accepted, acceptSkipped, acceptWaited *prometheus.Desc
	closesCut, undelivered, closing       *prometheus.Desc
	opened, open                          *prometheus.Desc
	paths, listeners                      *prometheus.Desc

	inbound, outbound connCount

	mu      sync.Mutex
	members map[*reuseport.Transport]*member
	left    tally // of former members
}

// member is a reuseport.Transport in use by one or more Transports.
type member struct {
	users int
	start tally // when it joined: a Transport may have worked elsewhere before
}

// connCount counts the connections of one direction.
type connCount struct{ opened, closed atomic.Int64 }

func newCollector() *collector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("reuseport_"+name, help, labels, nil)
	}
	return &collector{
		dials:         d("dials_total", "Dials by result: from a listening port, from a new port, failed.", "result"),
		newPort:       d("new_port_dials_total", "Connections from a new port by cause.", "cause"),
		hedges:        d("hedges_total", "Second dials from a new port, started because the listening port got no answer."),
		hedgeWins:     d("hedge_wins_total", "Hedges that were answered first."),
		punches:       d("punches_total", "Hole punches by result.", "result"),
		punchSYNs:     d("punch_syns_total", "SYNs that hole punches sent."),
		accepted:      d("accepted_total", "Connections accepted from the kernel, before gating."),
		acceptSkipped: d("accept_skipped_total", "Connections that died in the accept queue."),
		acceptWaited:  d("accept_delayed_total", "Times that accepting waited for descriptors or buffers."),
		closesCut:     d("closes_cut_total", "Closed connections that did not deliver all, by who cut them.", "by"),
		undelivered:   d("undelivered_bytes_total", "Bytes written before a close and not acknowledged."),
		closing:       d("closes_pending", "Closed connections that still deliver."),
		opened:        d("connections_total", "Connections handed to the upgrader by direction.", "direction"),
		open:          d("connections_open", "Connections open by direction.", "direction"),
		paths:         d("paths", "Source addresses and listening ports by what dials from them have shown.", "state"),
		listeners:     d("listeners", "Open listeners."),
		members:       make(map[*reuseport.Transport]*member),
		left:          tally{},
	}
}

// registerWith adds r to the collector of reg, which it makes if reg has none.
func registerWith(reg prometheus.Registerer, r *reuseport.Transport) (*collector, error) {
	c := newCollector()
	if err := reg.Register(c); err != nil {
		var known prometheus.AlreadyRegisteredError
		if !errors.As(err, &known) {
			return nil, err
		}
		ours, ok := known.ExistingCollector.(*collector)
		if !ok {
			return nil, err
		}
		c = ours
	}
	c.join(r)
	return c, nil
}

// join adds a user of r.
func (c *collector) join(r *reuseport.Transport) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.members[r]
	if m == nil {
		m = &member{start: c.read(r.Stats())}
		c.members[r] = m
	}
	m.users++
}

// leave removes a user of r. With the last user it keeps what r has counted.
func (c *collector) leave(r *reuseport.Transport) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.members[r]
	if m == nil {
		return // Close was called twice
	}
	if m.users--; m.users > 0 {
		return
	}
	c.left.add(c.read(r.Stats()), 1)
	c.left.add(m.start, -1)
	delete(c.members, r)
}

// sample names one value of a metric.
type sample struct {
	desc  *prometheus.Desc
	label string // empty for a metric without labels
}

// tally holds counts by sample.
type tally map[sample]float64

func (t tally) add(other tally, sign float64) {
	for s, v := range other {
		t[s] += sign * v
	}
}

// causes returns every cause of a connection from a new port. A series has to exist
// before it grows; otherwise its first increase is not seen.
func causes() []reuseport.Cause {
	return []reuseport.Cause{
		reuseport.ByPolicy, reuseport.NoListener, reuseport.TupleInUse, reuseport.BindConflict,
		reuseport.AddrGone, reuseport.BindDenied, reuseport.SelfConnection,
		reuseport.HedgeWon, reuseport.PathSilent,
	}
}

// read returns the counters of Stats by sample.
func (c *collector) read(s reuseport.Stats) tally {
	t := tally{
		{c.dials, "reused"}:      float64(s.DialsReused),
		{c.dials, "new"}:         float64(s.DialsNew),
		{c.dials, "failed"}:      float64(s.DialsFailed),
		{c.hedges, ""}:           float64(s.Hedges),
		{c.hedgeWins, ""}:        float64(s.HedgeWins),
		{c.punches, "connected"}: float64(s.Punched),
		{c.punches, "failed"}:    float64(s.PunchesFailed),
		{c.punchSYNs, ""}:        float64(s.PunchSYNs),
		{c.accepted, ""}:         float64(s.Accepted),
		{c.acceptSkipped, ""}:    float64(s.AcceptSkipped),
		{c.acceptWaited, ""}:     float64(s.AcceptDelayed),
		{c.closesCut, "us"}:      float64(s.ClosesAborted),
		{c.closesCut, "peer"}:    float64(s.ClosesReset),
		{c.undelivered, ""}:      float64(s.BytesUndelivered),
	}
	for _, cause := range causes() {
		t[sample{c.newPort, cause.String()}] = float64(s.NewByCause[cause])
	}
	return t
}

// readState returns the momentary values of Stats by sample.
func (c *collector) readState(s reuseport.Stats) tally {
	t := tally{
		{c.listeners, ""}: float64(s.Listeners),
		{c.closing, ""}:   float64(s.ClosesPending),
	}
	for _, state := range []reuseport.PathState{reuseport.PathUnproven, reuseport.PathProven, reuseport.PathBlocked} {
		t[sample{c.paths, state.String()}] = 0
	}
	for _, p := range s.Paths {
		t[sample{c.paths, p.State.String()}]++
	}
	return t
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.dials, c.newPort, c.hedges, c.hedgeWins, c.punches, c.punchSYNs,
		c.accepted, c.acceptSkipped, c.acceptWaited,
		c.closesCut, c.undelivered, c.closing, c.opened, c.open, c.paths, c.listeners,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	counts, state := c.sum()
	emit(out, prometheus.CounterValue, counts)
	emit(out, prometheus.GaugeValue, state)
}

// sum adds up the members, the former members and the connections.
func (c *collector) sum() (counts, state tally) {
	c.mu.Lock()
	defer c.mu.Unlock()
	counts, state = c.read(reuseport.Stats{}), c.readState(reuseport.Stats{})
	counts.add(c.left, 1)
	for r, m := range c.members {
		s := r.Stats()
		counts.add(c.read(s), 1)
		counts.add(m.start, -1)
		state.add(c.readState(s), 1)
	}
	for label, n := range map[string]*connCount{"inbound": &c.inbound, "outbound": &c.outbound} {
		closed := n.closed.Load() // read before opened, so that the difference is never negative
		opened := n.opened.Load()
		counts[sample{c.opened, label}] = float64(opened)
		state[sample{c.open, label}] = float64(opened - closed)
	}
	return counts, state
}

func emit(out chan<- prometheus.Metric, kind prometheus.ValueType, t tally) {
	for s, v := range t {
		if s.label == "" {
			out <- prometheus.MustNewConstMetric(s.desc, kind, v)
		} else {
			out <- prometheus.MustNewConstMetric(s.desc, kind, v, s.label)
		}
	}
}

// opens counts a connection and returns the function that counts its end.
func (c *collector) opens(dir network.Direction) func() {
	n := &c.outbound
	if dir == network.DirInbound {
		n = &c.inbound
	}
	n.opened.Add(1)
	return func() { n.closed.Add(1) }
}
