//go:build linux

package main

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// parallelProbe counts dials with resets per second by many goroutines, while
// other listeners of the host come and go.
type parallelProbe struct {
	*site
	goroutines int
	rings      []*ring
}

// openParallel returns the open function of a scenario with that many goroutines.
func openParallel(goroutines int) func(*arena, Peer) (probe, error) {
	return func(ar *arena, p Peer) (probe, error) {
		s, err := newSite(ar, p, onUnspecified(ar)...)
		if err != nil {
			return nil, err
		}
		pp := &parallelProbe{site: s, goroutines: goroutines}
		part := len(s.to.addrs) / goroutines
		for i := range goroutines {
			pp.rings = append(pp.rings, &ring{addrs: s.to.addrs[i*part : (i+1)*part]})
		}
		return pp, nil
	}
}

// parallelRound is one round while it runs.
type parallelRound struct {
	end    time.Time
	done   atomic.Int64
	reused atomic.Int64
	known  atomic.Bool
}

func (p *parallelProbe) round(lim Limit) (Sample, error) {
	start := time.Now()
	r := &parallelRound{end: start.Add(lim.Time)}
	errs := make([]error, p.goroutines+1)
	var wg sync.WaitGroup
	wg.Go(func() { errs[p.goroutines] = churn(p.host, r.end) })
	for i := range p.goroutines {
		wg.Go(func() { errs[i] = r.dialUntil(p.host, p.rings[i]) })
	}
	wg.Wait()
	s := Sample{Value: float64(r.done.Load()) / time.Since(start).Seconds(), Ops: int(r.done.Load())}
	if r.known.Load() {
		s.claim(int(r.reused.Load()))
	}
	return s, errors.Join(errs...)
}

// dialUntil runs one goroutine of the round.
func (r *parallelRound) dialUntil(h Host, to *ring) error {
	for time.Now().Before(r.end) {
		c, err := h.Dial(context.Background(), to.take())
		if err != nil {
			return err
		}
		reused, known := isReused(c)
		if reused {
			r.reused.Add(1)
		}
		r.known.Store(known)
		r.done.Add(1)
		if err := reset(c); err != nil {
			return err
		}
	}
	return nil
}

// churn opens a listener every millisecond and closes the one before.
func churn(h Host, end time.Time) error {
	a, err := newAddr(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
	if err != nil {
		return err
	}
	for time.Now().Before(end) {
		l, err := h.Listen(a)
		if err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
		if err := l.Close(); err != nil {
			return err
		}
	}
	return nil
}

// acceptProbe counts connections accepted and closed per second, with clients in
// another process.
type acceptProbe struct {
	clients int
	l       Listener
	pump    *worker
	count   atomic.Int64
	done    chan struct{} // closed when serve has ended
	err     error         // why serve ended; set before done is closed
	once    sync.Once
}

// openAccept returns the open function of a scenario with that many clients.
func openAccept(clients int) func(*arena, Peer) (probe, error) {
	return func(ar *arena, p Peer) (probe, error) {
		l, err := listenOn(p.Open(), netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
		if err != nil {
			return nil, err
		}
		pump, err := ar.spawn()
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		ap := &acceptProbe{clients: clients, l: l, pump: pump, done: make(chan struct{})}
		go ap.serve()
		return ap, nil
	}
}

// serve accepts and closes until the listener is closed. After an error it closes the
// listener itself, so that the clients stop waiting. A connection that its client
// reset first may fail to close; if that matters, the next Accept fails.
func (p *acceptProbe) serve() {
	defer close(p.done)
	for {
		c, err := p.l.Accept()
		if err != nil {
			p.err = errors.Join(err, p.stop())
			return
		}
		if c.Close() == nil {
			p.count.Add(1)
		}
	}
}

func (p *acceptProbe) round(lim Limit) (Sample, error) {
	var done int
	before := p.count.Load()
	start := time.Now()
	args := PumpArgs{Port: localAddrPort(p.l).Port(), Clients: p.clients, Time: lim.Time}
	if err := p.pump.Call("Pump.Run", args, &done); err != nil {
		return Sample{}, err
	}
	select {
	case <-p.done:
		return Sample{}, p.err
	default:
	}
	n := p.count.Load() - before
	return Sample{Value: float64(n) / time.Since(start).Seconds(), Ops: int(n)}, nil
}

// stop closes the listener, but only once: the floor's descriptor is a bare number.
func (p *acceptProbe) stop() (err error) {
	p.once.Do(func() { err = p.l.Close() })
	return err
}

func (p *acceptProbe) close() error {
	err := p.stop()
	<-p.done
	return errors.Join(err, p.pump.close())
}
