package reuseport

import (
	"context"
	"net"
	"net/netip"
)

// sourceAddr asks the kernel which address it would dial raddr from, by
// connecting a UDP socket, which sends nothing. It needs no netlink, which
// Android denies, and follows marks and interface binding, since Control is
// called on the socket. It misses one thing: routing rules that match TCP alone
// (`ip rule … ipproto tcp`).
func (t *Transport) sourceAddr(ctx context.Context, raddr netip.AddrPort) (netip.Addr, error) {
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
