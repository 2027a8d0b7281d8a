package lab

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	// maxLog bounds a wire's log. Later packets are only counted.
	maxLog = 1 << 17

	// queueLen is how many frames of one host may be on their way.
	queueLen = 4096
)

// wire joins the keeper's ends of the cables of a Wire.
type wire struct {
	name  string
	ports []*port

	mu     sync.Mutex
	cond   Wire
	drop   []matcher
	log    []*Packet
	missed int
}

// port is one host's end. Its frames stay in order, whatever the jitter: one
// goroutine receives them, and another delivers them one by one when they are due.
type port struct {
	wire  *wire
	host  string
	mac   net.HardwareAddr // the host's
	file  *os.File         // packet socket
	queue chan transit
}

// transit is a frame on its way.
type transit struct {
	frame []byte // with its virtio_net_hdr in front
	due   time.Time
	to    []*port
	entry *Packet // nil = not recorded
}

func newWire(name string, cond Wire) (*wire, error) {
	w := &wire{name: name}
	return w, w.set(cond)
}

func (w *wire) set(cond Wire) error {
	if err := checkWire(cond); err != nil {
		return fmt.Errorf("%w: wire %s: %w", ErrTopology, w.name, err)
	}
	drop, err := parseMatches(cond.Drop)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cond, w.drop = cond, drop
	return nil
}

// plug adds the keeper's interface far, whose other end belongs to host.
func (w *wire) plug(host, far string, hostMAC net.HardwareAddr) error {
	file, err := openPort(far)
	if err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	w.ports = append(w.ports, &port{
		wire: w, host: host, mac: hostMAC, file: file, queue: make(chan transit, queueLen),
	})
	return nil
}

func (w *wire) start() error {
	for _, p := range w.ports {
		go p.receive()
		go p.send()
	}
	return nil
}

// receive runs until the keeper ends.
func (p *port) receive() {
	buf := make([]byte, vnetHdrLen+maxFrame)
	for {
		n, err := p.file.Read(buf)
		if err != nil {
			fmt.Fprintf(os.Stderr, "wire %s: from %s: %v\n", p.wire.name, p.host, err)
			return
		}
		if n <= vnetHdrLen+etherLen {
			continue
		}
		t, ok := p.wire.take(p, buf[:n], time.Now())
		if !ok {
			continue
		}
		p.queue <- t
	}
}

// take decides what happens to a frame and records it.
func (w *wire) take(from *port, buf []byte, now time.Time) (transit, bool) {
	frame := buf[vnetHdrLen:]
	t := transit{frame: slices.Clone(buf), due: now, to: w.route(from, frame)}
	p, traffic := parseFrame(frame)
	if !traffic {
		return t, true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p.At, p.From = now, from.host
	if len(t.to) == 1 {
		p.To = t.to[0].host
	}
	p.Dropped = slices.ContainsFunc(w.drop, func(m matcher) bool { return m.match(p) })
	p.Lost = !p.Dropped && rand.Float64() < w.cond.Loss
	t.entry = w.record(p)
	t.due = now.Add(w.cond.Delay + jitter(w.cond.Jitter))
	return t, !p.Dropped && !p.Lost
}

func jitter(most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	return rand.N(most)
}

// record stores p while there is room. The caller holds w.mu.
func (w *wire) record(p Packet) *Packet {
	if len(w.log) >= maxLog {
		w.missed++
		return nil
	}
	w.log = append(w.log, &p)
	return &p
}

// route returns the ports that a frame goes to: the one with its destination address,
// or all others for a multicast or broadcast.
func (w *wire) route(from *port, frame []byte) []*port {
	dst := net.HardwareAddr(frame[:6])
	var to []*port
	for _, p := range w.ports {
		if p != from && (dst[0]&1 != 0 || slices.Equal(p.mac, dst)) {
			to = append(to, p)
		}
	}
	return to
}

// send runs until the keeper ends.
func (p *port) send() {
	for t := range p.queue {
		time.Sleep(time.Until(t.due))
		if err := t.deliver(); err != nil {
			fmt.Fprintf(os.Stderr, "wire %s: from %s: %v\n", p.wire.name, p.host, err)
			continue
		}
		p.wire.delivered(t.entry)
	}
}

func (t transit) deliver() error {
	for _, to := range t.to {
		if _, err := to.file.Write(t.frame); err != nil {
			return fmt.Errorf("to %s: %w", to.host, err)
		}
	}
	return nil
}

func (w *wire) delivered(entry *Packet) {
	if entry == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	entry.Out = time.Now()
}

func (w *wire) packets() Log {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := Log{Packets: make([]Packet, len(w.log)), Missed: w.missed}
	for i, p := range w.log {
		l.Packets[i] = *p
	}
	return l
}

func (w *wire) clear() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log, w.missed = nil, 0
}
