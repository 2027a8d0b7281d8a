//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// refusedProbe times a dial to a closed port. The port is bound, so that no other
// program can listen on it.
type refusedProbe struct {
	*site
	closed rawConn
}

func openRefused(ar *arena, p Peer) (probe, error) {
	s := &site{host: p.Open()}
	if err := s.listen(onUnspecified(ar)); err != nil {
		return nil, errors.Join(err, s.close())
	}
	closed, port, err := bindOnly()
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	addrs, err := ar.dests(port)
	if err != nil {
		return nil, errors.Join(err, closed.Close(), s.close())
	}
	s.to = &ring{addrs: addrs}
	return refusedProbe{s, closed}, nil
}

// bindOnly binds a free port without listening.
func bindOnly() (rawConn, uint16, error) {
	fd, err := rawSocket(false)
	if err != nil {
		return 0, 0, err
	}
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))); err != nil {
		return 0, 0, closeAfter(rawConn(fd), "bind", err)
	}
	return rawConn(fd), localAddrPort(rawListener(fd)).Port(), nil
}

func (p refusedProbe) round(lim Limit) (Sample, error) {
	return measure(lim, func() (time.Duration, error) {
		d, err := timeOf(func() error {
			_, err := p.dial()
			return err
		})
		return d, wants(err, unix.ECONNREFUSED)
	})
}

func (p refusedProbe) close() error { return errors.Join(p.closed.Close(), p.site.close()) }

// wants turns the expected error into nil, and any other outcome into an error.
func wants(err, want error) error {
	if errors.Is(err, want) {
		return nil
	}
	return fmt.Errorf("dial: got %v, want %w", err, want)
}

// silentProbe times one dial to an on-link address that has no host.
type silentProbe struct {
	*site
	to *Addr
}

func openSilent(ar *arena, p Peer) (probe, error) {
	s := &site{host: p.Open()}
	if err := s.listen(onSpecific(ar)); err != nil {
		return nil, errors.Join(err, s.close())
	}
	to, err := ar.silent()
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return silentProbe{s, to}, nil
}

func (p silentProbe) round(Limit) (Sample, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	d, err := timeOf(func() error {
		_, err := p.host.Dial(ctx, p.to)
		return err
	})
	return Sample{Value: float64(d), Ops: 1}, wants(err, unix.EHOSTUNREACH)
}

// heldProbe times a second dial, with its reset, to peers that the host already has a
// connection with.
type heldProbe struct {
	*site
	held []Conn
}

// heldPeers is how many connections it holds: enough that no peer is dialed again at
// once.
const heldPeers = 256

func openHeld(ar *arena, p Peer) (probe, error) {
	s, err := newSite(ar, p, onUnspecified(ar)...)
	if err != nil {
		return nil, err
	}
	s.to.addrs = s.to.addrs[:heldPeers]
	held, err := s.hold(heldPeers)
	if err != nil {
		return nil, errors.Join(err, resetAll(held), s.close())
	}
	return heldProbe{s, held}, nil
}

func (p heldProbe) round(lim Limit) (Sample, error) { return dialProbe{p.site}.round(lim) }

func (p heldProbe) close() error { return errors.Join(resetAll(p.held), p.site.close()) }
