package reuseport

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"

	"github.com/reusetransport/reuseport/internal/errno"
	"github.com/reusetransport/reuseport/internal/netaddr"
	"github.com/reusetransport/reuseport/internal/sockopt"
)

// This file has what a dial asks of the system: a connection from a listening port or from
// an ephemeral one, and the source address.

// connect dials from laddr, whose port we listen on. It sends one SYN, or none if ctx has
// already ended: DialTCP does not check that before it sends (TestEndedContextSendsNothing).
func (t *Transport) connect(ctx context.Context, laddr, raddr netip.AddrPort) (*net.TCPConn, error) {
	return t.connectAfter(ctx, laddr, raddr, setReuseToDial)
}

// connectAfter is connect with a function that sets the options for reuse.
func (t *Transport) connectAfter(ctx context.Context, laddr, raddr netip.AddrPort, setReuse controlFunc) (*net.TCPConn, error) {
	if ctx.Err() != nil {
		return nil, contextError(ctx, laddr, raddr)
	}
	d := t.dialer(setReuse)
	traced := traceConnect(ctx, raddr)
	c, err := d.DialTCP(ctx, netaddr.Network(raddr.Addr()), laddr, raddr)
	if errno.IsOutOfResources(err) && t.flushes.GiveUp() > 0 {
		c, err = d.DialTCP(ctx, netaddr.Network(raddr.Addr()), laddr, raddr)
	}
	traced.done(raddr, err)
	if err != nil {
		return nil, nameDeadline(err)
	}
	if !isSelfConnected(c) {
		t.setKeepAlive(c)
		return c, nil
	}
	local := netaddr.From(c.LocalAddr())
	err = opError("dial", netaddr.Network(raddr.Addr()), local, local, errSelfConnection)
	return nil, failures(err, c.SetLinger(0), c.Close())
}

// connectNew dials from a port that the kernel chooses. DialTCP would bind port 0 first,
// which costs a system call and halves the ports that the kernel may choose from;
// DialContext leaves the choice to connect.
func (t *Transport) connectNew(ctx context.Context, raddr netip.AddrPort) (*net.TCPConn, error) {
	d := t.dialer(nil)
	c, err := d.DialContext(ctx, netaddr.Network(raddr.Addr()), raddr.String())
	if errno.IsOutOfResources(err) && t.flushes.GiveUp() > 0 {
		c, err = d.DialContext(ctx, netaddr.Network(raddr.Addr()), raddr.String())
	}
	if err != nil {
		return nil, nameDeadline(err)
	}
	tcp := c.(*net.TCPConn)
	t.setKeepAlive(tcp)
	return tcp, nil
}

// dialer returns package net's dialer with the user's options. control, which may be nil, is
// called after the user's own.
func (t *Transport) dialer(control controlFunc) net.Dialer {
	d := net.Dialer{KeepAlive: sockopt.NetKeepAlive}
	d.SetMultipathTCP(false) // with it package net dials a second time after any error
	if t.ControlContext == nil {
		d.Control = t.control().then(control)
		return d
	}
	d.ControlContext = func(ctx context.Context, network, address string, c syscall.RawConn) error {
		return t.controlIn(ctx).then(control)(network, address, c)
	}
	return d
}

// controlFunc is a function for net.Dialer.Control and net.ListenConfig.Control.
// A nil one does nothing.
type controlFunc func(network, address string, c syscall.RawConn) error

// control returns the user's control function.
func (t *Transport) control() controlFunc { return t.Control }

// controlIn returns the user's control function for a dial.
func (t *Transport) controlIn(ctx context.Context) controlFunc {
	if t.ControlContext == nil {
		return t.Control
	}
	return func(network, address string, c syscall.RawConn) error {
		return t.ControlContext(ctx, network, address, c)
	}
}

// then returns a control function that calls f and, if f succeeds, g.
func (f controlFunc) then(g controlFunc) controlFunc {
	switch {
	case f == nil:
		return g
	case g == nil:
		return f
	}
	return func(network, address string, c syscall.RawConn) error {
		if err := f(network, address, c); err != nil {
			return err
		}
		return g(network, address, c)
	}
}

// setReuseToDial is sockopt.SetReuseToDial, with an error that localFault recognizes.
func setReuseToDial(network, address string, c syscall.RawConn) error {
	if err := sockopt.SetReuseToDial(network, address, c); err != nil {
		return fmt.Errorf("%w: %w", errNoReuseOption, err)
	}
	return nil
}

// setKeepAlive gives a dialed connection the keep-alive that the user wants, or that package net
// would give it (TestKeepAliveIsNets). It does so in one visit to the descriptor, where package net needs
// four; so package net is told not to. Like package net it drops the error, because a
// connection works without keep-alive.
func (t *Transport) setKeepAlive(c *net.TCPConn) {
	if t.KeepAliveConfig.Enable {
		_ = c.SetKeepAliveConfig(t.KeepAliveConfig)
		return
	}
	if sockopt.NetKeepAlive >= 0 {
		return
	}
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(keepAlive)
	}
}

func keepAlive(fd uintptr) { _ = sockopt.SetKeepAlive(fd) }

// isSelfConnected reports whether c is connected to its own socket, which TCP allows
// (simultaneous open with oneself, RFC 9293 section 3.5). net.Dialer guards against it only
// where the kernel chose the port.
func isSelfConnected(c *net.TCPConn) bool {
	return netaddr.From(c.LocalAddr()) == netaddr.From(c.RemoteAddr())
}

// isHeld reports whether a connection of t has the 4-tuple of a dial. It asks the descriptor that
// the connection had: whatever has it by now, if it is connected in that way, the 4-tuple is in use.
func (t *Transport) isHeld(ctx context.Context, laddr, raddr netip.AddrPort) bool {
	fd, ok := t.held.Find(laddr.Port(), raddr)
	if !ok {
		return false
	}
	if remote, err := sockopt.Peer(fd); err != nil || remote != raddr {
		return false
	}
	local, err := sockopt.Local(fd)
	if err != nil {
		return false
	}
	laddr, err = t.withSource(ctx, laddr, raddr)
	return err == nil && local == laddr
}

// hold remembers that a connection has its 4-tuple.
func (t *Transport) hold(tcp *net.TCPConn, local, remote netip.AddrPort) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	// It fails where the connection is closed already.
	_ = raw.Control(t.held.At(local.Port(), remote).Note)
}

// withSource returns laddr, its wildcard replaced by the source address that the kernel would
// choose towards raddr. The wildcard stays where the kernel knows no source.
func (t *Transport) withSource(ctx context.Context, laddr, raddr netip.AddrPort) (netip.AddrPort, error) {
	switch {
	case !laddr.Addr().IsUnspecified():
		return laddr, nil
	case raddr.Addr().IsLoopback(): // from 127.0.0.1, or ::1, unless somebody rewrote the table "local"
		return netip.AddrPortFrom(netaddr.Loopback(raddr.Addr()), laddr.Port()), nil
	}
	source, err := t.findSource(ctx, raddr)
	switch {
	case err == nil:
		return netip.AddrPortFrom(source, laddr.Port()), nil
	case ctx.Err() != nil:
		return netip.AddrPort{}, contextError(ctx, laddr, raddr)
	}
	return netaddr.Wildcard(raddr.Addr(), laddr.Port()), nil
}

// findSource asks the kernel which address it would dial raddr from.
func (t *Transport) findSource(ctx context.Context, raddr netip.AddrPort) (netip.Addr, error) {
	source, err := t.sources.Source(ctx, raddr, t.controlIn(ctx))
	if errno.IsOutOfResources(err) && t.flushes.GiveUp() > 0 {
		source, err = t.sources.Source(ctx, raddr, t.controlIn(ctx))
	}
	return source, err
}

// tcpDialers make the two dials of a hedged one.
type tcpDialers struct {
	t            *Transport
	laddr, raddr netip.AddrPort
	pendingSocket
}

func (d *tcpDialers) fromListener(ctx context.Context, bounded bool) (*net.TCPConn, error) {
	d.bounded = bounded
	return d.t.connectAfter(ctx, d.laddr, d.raddr, d.control)
}

func (d *tcpDialers) fromNewPort(ctx context.Context) (*net.TCPConn, error) {
	return d.t.connectNew(ctx, d.raddr)
}

// A pendingSocket is the socket of a dial while it connects.
type pendingSocket struct {
	bounded bool
	raw     atomic.Pointer[syscall.RawConn]
}

// control sets the options for reuse, and the bound of SYNs. Without the bound more SYNs leave
// and nothing else changes, so its error is dropped.
func (s *pendingSocket) control(network, address string, c syscall.RawConn) error {
	s.raw.Store(&c)
	if s.bounded {
		_ = c.Control(boundSYNs)
	}
	return setReuseToDial(network, address, c)
}

func boundSYNs(fd uintptr) { _ = sockopt.LimitSYNs(fd) }

// isConnected asks the system, which knows before the dial does if the process was stopped
// meanwhile. It reports false where the system does not tell.
func (s *pendingSocket) isConnected() (connected bool) {
	raw := s.raw.Load()
	if raw == nil {
		return false
	}
	err := (*raw).Control(func(fd uintptr) {
		_, err := sockopt.Peer(fd)
		connected = err == nil
	})
	return connected && err == nil
}
