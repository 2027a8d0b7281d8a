// Package sourceaddr asks the kernel which source address it would dial an address from,
// and sends nothing. It needs no netlink, which Android denies. It follows routing rules,
// marks and interface bindings, because the caller's control function is applied to the
// socket that asks.
package sourceaddr

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
)

// An Asker asks for source addresses. The zero value is ready. All methods are safe for
// concurrent use. On Linux it keeps up to two sockets, one for each family; they answer
// for the user and the network namespace that the process had when they were made. Close
// closes them, or else the garbage collector.
type Asker struct {
	kept   kept
	closed atomic.Bool
}

// Source returns the address that the kernel would dial raddr from. control may be nil.
// If there is no source, the error is control's or that of the look-up.
func (a *Asker) Source(ctx context.Context, raddr netip.AddrPort, control func(network, address string, c syscall.RawConn) error) (netip.Addr, error) {
	if source, err := a.byTCP(raddr, control); err == nil {
		return source, nil
	}
	return byUDP(ctx, raddr, control)
}

// Close closes the sockets that are kept. Later calls of Source keep none.
func (a *Asker) Close() {
	a.closed.Store(true)
	a.kept.close()
}

// byUDP connects a UDP socket, on any system. It misses rules that match TCP alone
// (`ip rule … ipproto tcp`).
func byUDP(ctx context.Context, raddr netip.AddrPort, control func(string, string, syscall.RawConn) error) (netip.Addr, error) {
	d := net.Dialer{Control: control}
	network := "udp4"
	if !raddr.Addr().Is4() {
		network = "udp6"
	}
	c, err := d.DialContext(ctx, network, raddr.String())
	if err != nil {
		return netip.Addr{}, err
	}
	local := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	return local, c.Close()
}
