//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	ma "github.com/multiformats/go-multiaddr"
)

// Peer is one implementation under measurement.
type Peer struct {
	Name string
	Open func() Host // makes a host without listeners
}

// Host listens and dials with one implementation. Dial leaves from a listening port
// if the implementation can do that.
type Host interface {
	Listen(laddr *Addr) (Listener, error)
	Dial(ctx context.Context, raddr *Addr) (Conn, error)
}

// Listener is the part of a listener that measuring needs.
type Listener interface {
	Accept() (Conn, error)
	Close() error
	Addr() net.Addr
}

// Conn is the part of a connection that measuring needs.
type Conn interface {
	Close() error
}

// Peers are the implementations of a run, in the order of the table.
type Peers []Peer

// Register adds an implementation.
func (p *Peers) Register(name string, open func() Host) {
	*p = append(*p, Peer{Name: name, Open: open})
}

// allPeers returns the implementations that this benchmark knows.
func allPeers() Peers {
	var p Peers
	p.Register(ours, openReuseport)
	p.Register(libp2p, openLibp2p)
	p.Register(naive, openNaive)
	p.Register("manet", openManet)
	p.Register(plain, openPlain)
	p.Register(floor, openRaw)
	p.Register(floorNew, openRawNew)
	return p
}

// The peers that goals and scenarios name.
const (
	ours   = "reuseport"
	libp2p = "go-libp2p"
	naive  = "go-reuseport"
	plain  = "net"
	floor  = "syscalls"

	// floorNew is floor without reuse. The difference is the least that reuse costs
	// in the kernel.
	floorNew = "syscalls-new"
)

// find returns the peer of that name.
func (p Peers) find(name string) (Peer, error) {
	i := slices.IndexFunc(p, func(x Peer) bool { return x.Name == name })
	if i < 0 {
		return Peer{}, fmt.Errorf("no peer %q", name)
	}
	return p[i], nil
}

// Addr is a TCP address in every form that a peer wants. The forms are made in
// advance, so that each peer gets the form its users would have.
type Addr struct {
	AddrPort  netip.AddrPort
	Multiaddr ma.Multiaddr
	Text      string
}

// newAddr returns an address in all forms.
func newAddr(ap netip.AddrPort) (*Addr, error) {
	m, err := ma.NewMultiaddr(fmt.Sprintf("/ip4/%s/tcp/%d", ap.Addr(), ap.Port()))
	if err != nil {
		return nil, err
	}
	return &Addr{AddrPort: ap, Multiaddr: m, Text: ap.String()}, nil
}

// aborter is a connection whose Close delivers and frees the 4-tuple, and which
// therefore has another method to reset.
type aborter interface{ Abort() error }

// reset closes a connection with a reset: by Abort if it has that method, otherwise
// with SO_LINGER 0.
func reset(c Conn) error {
	if a, ok := c.(aborter); ok {
		return a.Abort()
	}
	if err := linger0(c); err != nil {
		return err
	}
	return c.Close()
}

// linger0 sets SO_LINGER 0.
func linger0(c Conn) error {
	l, ok := c.(interface{ SetLinger(int) error })
	if !ok {
		return errors.ErrUnsupported
	}
	return l.SetLinger(0)
}
