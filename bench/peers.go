//go:build linux

package main

import (
	"context"
	"net"
	"net/netip"

	upstream "github.com/libp2p/go-libp2p/p2p/net/reuseport"
	reuse "github.com/libp2p/go-reuseport"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/reusetransport/reuseport"
)

// maListener makes a Listener from a multiaddr listener.
type maListener struct{ manet.Listener }

func (l maListener) Accept() (Conn, error) { return l.Listener.Accept() }

// netListener makes a Listener from a net.Listener.
type netListener struct{ net.Listener }

func (l netListener) Accept() (Conn, error) { return l.Listener.Accept() }

// wrapMA wraps a multiaddr listener, or passes on the error.
func wrapMA(l manet.Listener, err error) (Listener, error) {
	if err != nil {
		return nil, err
	}
	return maListener{l}, nil
}

// wrapNet wraps a net.Listener, or passes on the error.
func wrapNet(l net.Listener, err error) (Listener, error) {
	if err != nil {
		return nil, err
	}
	return netListener{l}, nil
}

// reuseportHost is this module.
type reuseportHost struct{ t *reuseport.Transport }

func openReuseport() Host { return reuseportHost{new(reuseport.Transport)} }

func (h reuseportHost) Listen(a *Addr) (Listener, error) { return wrapMA(h.t.Listen(a.Multiaddr)) }

func (h reuseportHost) Dial(ctx context.Context, a *Addr) (Conn, error) {
	return h.t.DialContext(ctx, a.Multiaddr)
}

// libp2pHost is go-libp2p's p2p/net/reuseport.
type libp2pHost struct{ t *upstream.Transport }

func openLibp2p() Host { return libp2pHost{new(upstream.Transport)} }

func (h libp2pHost) Listen(a *Addr) (Listener, error) { return wrapMA(h.t.Listen(a.Multiaddr)) }

func (h libp2pHost) Dial(ctx context.Context, a *Addr) (Conn, error) {
	return h.t.DialContext(ctx, a.Multiaddr)
}

// naiveHost is what go-reuseport's README shows: its Control function, and the
// first listener's address as the local address of every dial.
type naiveHost struct{ d net.Dialer }

func openNaive() Host { return &naiveHost{net.Dialer{Control: reuse.Control}} }

func (h *naiveHost) Listen(a *Addr) (Listener, error) {
	l, err := reuse.Listen("tcp4", a.Text)
	if err == nil && h.d.LocalAddr == nil {
		h.d.LocalAddr = l.Addr()
	}
	return wrapNet(l, err)
}

func (h *naiveHost) Dial(ctx context.Context, a *Addr) (Conn, error) {
	return h.d.DialContext(ctx, "tcp4", a.Text)
}

// manetHost is go-multiaddr's plain dialer and listener.
type manetHost struct{ d manet.Dialer }

func openManet() Host { return new(manetHost) }

func (h *manetHost) Listen(a *Addr) (Listener, error) { return wrapMA(manet.Listen(a.Multiaddr)) }

func (h *manetHost) Dial(ctx context.Context, a *Addr) (Conn, error) {
	return h.d.DialContext(ctx, a.Multiaddr)
}

// plainHost is package net, the base of most ratios.
type plainHost struct{ d net.Dialer }

func openPlain() Host { return new(plainHost) }

func (h *plainHost) Listen(a *Addr) (Listener, error) {
	return wrapNet(net.Listen("tcp4", a.Text))
}

func (h *plainHost) Dial(ctx context.Context, a *Addr) (Conn, error) {
	return h.d.DialContext(ctx, "tcp4", a.Text)
}

// localAddrPort returns the address a listener is bound to.
func localAddrPort(l Listener) netip.AddrPort {
	return l.Addr().(*net.TCPAddr).AddrPort()
}
