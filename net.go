package reuseport

import (
	"context"
	"net"
	"net/netip"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"
)

// This file has the shapes of package net.

// Net is a Transport by the names of package net: its methods have the signatures of
// net.Dialer's and of net.Listen, which packages such as golang.org/x/net/proxy expect. It is a
// view: what it opens belongs to the Transport. The zero Net has no Transport, and its methods
// panic.
type Net struct{ t *Transport }

// Net returns t by the names of package net.
func (t *Transport) Net() Net { return Net{t} }

// Dial is DialContext with context.Background().
func (n Net) Dial(network, address string) (net.Conn, error) {
	return n.DialContext(context.Background(), network, address)
}

// DialContext is Transport.DialNetContext.
func (n Net) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return n.t.DialNetContext(ctx, network, address)
}

// DialTimeout is Dial that gives up after timeout, as net.DialTimeout does. Zero is no bound; with a
// negative timeout it fails at once. The error matches context.DeadlineExceeded.
func (n Net) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	if timeout == 0 {
		return n.Dial(network, address)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return n.DialContext(ctx, network, address)
}

// Listen listens on an address as net.Listen takes it, with the networks "tcp", "tcp4" and
// "tcp6". The result is a *NetListener; its Accept returns a *Conn. With "tcp" an unspecified
// or empty host is one socket for IPv4 and IPv6. See Transport.Listen for the rest.
func (n Net) Listen(network, address string) (net.Listener, error) {
	l, err := n.listen(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	return l.(*Listener).NetListener(), nil
}

func (n Net) listen(ctx context.Context, network, address string) (manet.Listener, error) {
	at, dual, err := parseListenAddress(ctx, n.t.resolver(), network, address)
	if err == nil && at.host != "" {
		at.addr, err = at.first(ctx, n.t.resolver())
	}
	switch {
	case err != nil:
		return nil, opError("listen", network, netip.AddrPort{}, netip.AddrPort{}, err)
	case dual:
		return n.t.ListenPort(at.addr.Port())
	}
	return n.t.open(listenAddr{AddrPort: netip.AddrPortFrom(zoned(at.addr.Addr()), at.addr.Port())})
}

// NetListener returns l as a net.Listener. Both are the same handle: closing one closes the other.
func (l *Listener) NetListener() *NetListener { return &NetListener{l} }

// A NetListener is a Listener whose Accept has the signature of net.Listener's. It keeps File,
// SyscallConn and SetDeadline.
type NetListener struct{ *Listener }

var _ net.Listener = (*NetListener)(nil)

// Accept is Listener.Accept.
func (l *NetListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err // and no nil *Conn in an interface
	}
	return c, nil
}

// maxLayers is how many layers on top of a connection ConnOf looks through.
const maxLayers = 16

// ConnOf returns the *Conn that is c, or that lies below it: below a tls.Conn and whatever
// else has a method NetConn as tls.Conn has it. It reports whether there is one.
func ConnOf(c net.Conn) (*Conn, bool) {
	for range maxLayers {
		if conn, ok := c.(*Conn); ok {
			return conn, true
		}
		layer, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = layer.NetConn()
	}
	return nil, false
}
