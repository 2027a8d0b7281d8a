package reuseport

import (
	"context"
	"net"
	"net/netip"
)

// sourceAddr asks the kernel which address it would dial raddr from, and sends
// nothing. It needs no netlink, which Android denies, and follows routing rules,
// marks and interface binding, since Control is called on the socket that asks.
func (t *Transport) sourceAddr(ctx context.Context, raddr netip.AddrPort) (netip.Addr, error) {
	if source, err := t.sourceByTCP(raddr); err == nil {
		return source, nil
	}
	return t.sourceByUDP(ctx, raddr)
}

// sourceByUDP connects a UDP socket, on any system. It misses one thing: rules
// that match TCP alone (`ip rule … ipproto tcp`). Its error is why there is no
// source.
func (t *Transport) sourceByUDP(ctx context.Context, raddr netip.AddrPort) (netip.Addr, error) {
	d := net.Dialer{Control: t.Control}
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
