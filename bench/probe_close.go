//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"runtime"
	"time"
)

// closeProbe times Close alone, on a connection with nothing outstanding. It does not
// count allocations, since those of the dial would be included. The share is that of
// the peers that read EOF.
type closeProbe struct {
	*site
	free bool // every peer has to free the 4-tuple
}

// openClose returns the open function of a closing scenario. With free, the 4-tuple
// must be free for a redial at once: a peer whose Close does not do that gets
// SO_LINGER 0, and the floor sends a FIN first, the least that makes the other end
// read EOF.
func openClose(free bool) func(*arena, Peer) (probe, error) {
	return func(ar *arena, p Peer) (probe, error) {
		s, err := newSite(ar, p, onUnspecified(ar)...)
		if err != nil {
			return nil, err
		}
		return closeProbe{s, free}, nil
	}
}

func (p closeProbe) round(lim Limit) (Sample, error) {
	before, err := p.settled(0)
	if err != nil {
		return Sample{}, err
	}
	s, err := measure(lim, p.dialAndClose)
	if err != nil {
		return s, err
	}
	s.Allocs, s.Bytes = 0, 0
	after, err := p.settled(before.Accepted + s.Ops)
	s.claim(after.EOF - before.EOF)
	return s, err
}

// dialAndClose times the close.
func (p closeProbe) dialAndClose() (time.Duration, error) {
	c, err := p.dial()
	if err != nil {
		return 0, err
	}
	end := c.Close
	if _, delivers := c.(aborter); p.free && !delivers {
		if err := linger0(c); err != nil {
			return 0, err
		}
		end = func() error { return closeFreeing(c) }
	}
	return timeOf(end)
}

// closeFreeing closes a connection with SO_LINGER 0 so that the other end reads EOF.
func closeFreeing(c Conn) error {
	if raw, ok := c.(rawConn); ok {
		if err := raw.CloseWrite(); err != nil {
			return err
		}
	}
	return c.Close()
}

// settled waits until the sink has seen the end of at least n connections.
func (p closeProbe) settled(n int) (SinkCounts, error) {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		var counts SinkCounts
		if err := p.sink.Call("Sink.Counts", p.port, &counts); err != nil {
			return counts, err
		}
		if counts.EOF+counts.Reset >= n && counts.EOF+counts.Reset == counts.Accepted {
			return counts, nil
		}
		if time.Now().After(end) {
			return counts, fmt.Errorf("sink waits for connections: %+v", counts)
		}
	}
}

// listenProbe times Listen with Close.
type listenProbe struct{ host Host }

func openListen(_ *arena, p Peer) (probe, error) { return listenProbe{p.Open()}, nil }

func (p listenProbe) round(lim Limit) (Sample, error) {
	a, err := newAddr(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
	if err != nil {
		return Sample{}, err
	}
	return measure(lim, func() (time.Duration, error) {
		return timeOf(func() error {
			l, err := p.host.Listen(a)
			if err != nil {
				return err
			}
			return l.Close()
		})
	})
}

func (p listenProbe) close() error { return nil }

// heapProbe measures the heap of a live dialed connection.
type heapProbe struct{ *site }

func openHeap(ar *arena, p Peer) (probe, error) {
	s, err := newSite(ar, p, onUnspecified(ar)...)
	if err != nil {
		return nil, err
	}
	return heapProbe{s}, nil
}

func (p heapProbe) round(lim Limit) (Sample, error) {
	before := heapInUse()
	conns, err := p.hold(lim.Ops)
	after := heapInUse()
	if err != nil {
		return Sample{}, err
	}
	own := 16 * cap(conns) // the list itself
	s := Sample{Value: float64(after-before-own) / float64(lim.Ops), Ops: lim.Ops}
	return s, resetAll(conns)
}

// heapInUse returns the size of the live objects.
func heapInUse() int {
	runtime.GC()
	runtime.GC() // the second one frees what finalizers and pools held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
