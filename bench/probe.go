//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// site is the base of most probes: a host with its listeners, a sink in another
// process, and destinations that all lead to the sink.
type site struct {
	host      Host
	listeners []Listener
	sink      *worker
	port      uint16
	to        *ring
}

// newSite opens a host that listens on laddrs, and a sink of its own.
func newSite(ar *arena, p Peer, laddrs ...netip.Addr) (*site, error) {
	s := &site{host: p.Open()}
	err := s.listen(laddrs)
	if err == nil {
		err = s.openSink(ar)
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// listen opens a listener on each address, on ports that the kernel chooses.
func (s *site) listen(laddrs []netip.Addr) error {
	for _, laddr := range laddrs {
		l, err := listenOn(s.host, netip.AddrPortFrom(laddr, 0))
		if err != nil {
			return fmt.Errorf("listen on %v: %w", laddr, err)
		}
		s.listeners = append(s.listeners, l)
	}
	return nil
}

// listenOn listens on an address.
func listenOn(h Host, laddr netip.AddrPort) (Listener, error) {
	a, err := newAddr(laddr)
	if err != nil {
		return nil, err
	}
	return h.Listen(a)
}

// openSink starts the other end.
func (s *site) openSink(ar *arena) error {
	var err error
	if s.sink, err = ar.spawn(); err != nil {
		return err
	}
	if err := s.sink.Call("Sink.Open", Nothing{}, &s.port); err != nil {
		return err
	}
	addrs, err := ar.dests(s.port)
	s.to = &ring{addrs: addrs}
	return err
}

// close closes what the site opened.
func (s *site) close() error {
	var errs []error
	for _, l := range s.listeners {
		errs = append(errs, l.Close())
	}
	if s.sink != nil {
		errs = append(errs, s.sink.close())
	}
	return errors.Join(errs...)
}

// dial dials the next destination.
func (s *site) dial() (Conn, error) { return s.host.Dial(context.Background(), s.to.take()) }

// hold dials n connections and returns them.
func (s *site) hold(n int) ([]Conn, error) {
	conns := make([]Conn, 0, n)
	for range n {
		c, err := s.dial()
		if err != nil {
			return conns, err
		}
		conns = append(conns, c)
	}
	return conns, nil
}

// resetAll resets connections.
func resetAll(conns []Conn) error {
	var errs []error
	for _, c := range conns {
		errs = append(errs, reset(c))
	}
	return errors.Join(errs...)
}

// claim sets the share of a sample to n of its operations.
func (s *Sample) claim(n int) {
	share := float64(n) / float64(s.Ops)
	s.Share = &share
}

// isReused reports whether a connection left from a listening port. If the connection
// cannot tell, known is false.
func isReused(c Conn) (reused, known bool) {
	r, known := c.(interface{ Reused() bool })
	return known && r.Reused(), known
}

// dialProbe times a dial with the reset that ends it.
type dialProbe struct{ *site }

// openDial returns the open function of a scenario that dials with listeners on
// laddrs.
func openDial(laddrs func(*arena) []netip.Addr) func(*arena, Peer) (probe, error) {
	return func(ar *arena, p Peer) (probe, error) {
		s, err := newSite(ar, p, laddrs(ar)...)
		if err != nil {
			return nil, err
		}
		return dialProbe{s}, nil
	}
}

// openGlobal opens the scenario that dials global addresses.
func openGlobal(ar *arena, p Peer) (probe, error) {
	s, err := newSite(ar, p, onUnspecified(ar)...)
	if err != nil {
		return nil, err
	}
	if s.to.addrs, err = ar.global(s.port); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return dialProbe{s}, nil
}

// The listeners of the dial scenarios.
func onUnspecified(*arena) []netip.Addr { return []netip.Addr{netip.IPv4Unspecified()} }
func onLoopback(*arena) []netip.Addr    { return []netip.Addr{netip.MustParseAddr("127.0.0.1")} }
func onSpecific(ar *arena) []netip.Addr { return ar.local[:1] }
func onTwoPorts(ar *arena) []netip.Addr { return ar.local[:2] }

func (p dialProbe) round(lim Limit) (Sample, error) {
	reused, known := 0, false
	s, err := measure(lim, func() (time.Duration, error) {
		to := p.to.take()
		start := time.Now()
		c, err := p.host.Dial(context.Background(), to)
		if err != nil {
			return 0, err
		}
		var ok bool
		if ok, known = isReused(c); ok {
			reused++
		}
		err = reset(c)
		return time.Since(start), err
	})
	if known && err == nil {
		s.claim(reused)
	}
	return s, err
}
