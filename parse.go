package reuseport

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/reusetransport/reuseport/internal/netaddr"
)

// target is what a multiaddr asks for, or a network and an address: an IP address
// and port, or a name, a port and the network to look the name up in.
type target struct {
	addr netip.AddrPort // valid unless host is set
	host string
	ip   string // "ip", "ip4" or "ip6", as net.Resolver.LookupNetIP wants it
	port uint16

	orIPv4 bool // addr is ::1 for [::], and 127.0.0.1 will do as well
}

// parseMultiaddr reads /ip4, /ip6, /ip6zone, /dns, /dns4 or /dns6 followed by /tcp,
// straight from the multiaddr's bytes.
func parseMultiaddr(m ma.Multiaddr) (target, error) {
	wrong := func() (target, error) {
		return target{}, fmt.Errorf("%w: multiaddr %q", ErrWrongProto, m.String())
	}
	rest, zone := []ma.Component(m), ""
	if len(rest) == 3 && rest[0].Code() == ma.P_IP6ZONE && rest[1].Code() == ma.P_IP6 {
		rest, zone = rest[1:], rest[0].Value()
	}
	if len(rest) != 2 || rest[1].Code() != ma.P_TCP {
		return wrong()
	}
	port := binary.BigEndian.Uint16(rest[1].RawValue())
	switch rest[0].Code() {
	case ma.P_IP4, ma.P_IP6:
		ip, ok := netip.AddrFromSlice(rest[0].RawValue())
		if !ok {
			return wrong()
		}
		return target{addr: netip.AddrPortFrom(ip.Unmap().WithZone(zone), port)}, nil
	case ma.P_DNS:
		return target{host: rest[0].Value(), ip: "ip", port: port}, nil
	case ma.P_DNS4:
		return target{host: rest[0].Value(), ip: "ip4", port: port}, nil
	case ma.P_DNS6:
		return target{host: rest[0].Value(), ip: "ip6", port: port}, nil
	}
	return wrong()
}

// ipNetwork returns the network to look names up in for a TCP network.
func ipNetwork(network string) (string, error) {
	switch network {
	case "tcp":
		return "ip", nil
	case "tcp4":
		return "ip4", nil
	case "tcp6":
		return "ip6", nil
	}
	return "", fmt.Errorf("%w: network %q", ErrWrongProto, network)
}

// parseNetAddress reads what net.Dial takes: "tcp", "tcp4" or "tcp6" and
// host:port, the port a number or a service's name.
func parseNetAddress(ctx context.Context, resolver *net.Resolver, network, address string) (target, error) {
	to, err := splitNetAddress(ctx, resolver, network, address)
	switch {
	case err != nil:
		return target{}, err
	case to.host == "": // as net.Dial: the local system
		return target{addr: netip.AddrPortFrom(localSystem(to.ip), to.port)}, nil
	}
	addr, err := netip.ParseAddr(to.host)
	switch {
	case err != nil:
		return to, nil
	case addr == netip.IPv6Unspecified():
		return localTarget(to.ip, to.port), nil
	}
	return to.literal(addr)
}

// parseListenAddress reads what net.Listen takes. dual is set if one socket is to serve both
// families, as package net has it for "tcp" and any unspecified address.
func parseListenAddress(ctx context.Context, resolver *net.Resolver, network, address string) (at target, dual bool, err error) {
	at, err = splitNetAddress(ctx, resolver, network, address)
	if err != nil {
		return target{}, false, err
	}
	addr := netip.IPv6Unspecified()
	if at.ip == "ip4" {
		addr = netip.IPv4Unspecified()
	}
	if at.host != "" {
		if addr, err = netip.ParseAddr(at.host); err != nil {
			return at, false, nil // a name
		}
	}
	dual = at.ip == "ip" && addr.IsUnspecified()
	at, err = at.literal(addr)
	return at, dual, err
}

// splitNetAddress splits an address of package net: into host, port and the kind of address that
// host stands for.
func splitNetAddress(ctx context.Context, resolver *net.Resolver, network, address string) (target, error) {
	ip, err := ipNetwork(network)
	if err != nil {
		return target{}, err
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return target{}, err
	}
	port, err := resolver.LookupPort(ctx, network, service)
	if err != nil {
		return target{}, err
	}
	return target{host: host, ip: ip, port: uint16(port)}, nil
}

// literal returns the target that the host of to stands for, if its family is the right one.
func (to target) literal(addr netip.Addr) (target, error) {
	addr = addr.Unmap()
	if to.ip == "ip4" && !addr.Is4() || to.ip == "ip6" && addr.Is4() {
		return target{}, &net.AddrError{Err: "no address of network tcp" + to.ip[len("ip"):], Addr: to.host}
	}
	return target{addr: netip.AddrPortFrom(addr, to.port)}, nil
}

// localTarget returns what package net makes of [::]: the local system, in every network. Where
// both families will do, ::1 comes first.
func localTarget(ip string, port uint16) target {
	if ip != "ip" {
		return target{addr: netip.AddrPortFrom(localSystem(ip), port)}
	}
	return target{addr: netip.AddrPortFrom(netip.IPv6Loopback(), port), orIPv4: true}
}

// localSystem returns the loopback address: ::1 for "ip6", otherwise 127.0.0.1.
func localSystem(ip string) netip.Addr {
	if ip == "ip6" {
		return netip.IPv6Loopback()
	}
	return netaddr.Loopback(netip.IPv4Unspecified())
}

// isOne reports whether there is one address, which is known.
func (to target) isOne() bool { return to.host == "" && !to.orIPv4 }

// resolve returns the addresses of a name, in the resolver's order, or those of [::]. If ctx has ended
// it does not ask at all. Package net would ask and give up at once, or answer from
// what it knows, whichever came first.
func (to target) resolve(ctx context.Context, resolver *net.Resolver) ([]netip.AddrPort, error) {
	if to.orIPv4 {
		return []netip.AddrPort{to.addr, netip.AddrPortFrom(localSystem("ip4"), to.addr.Port())}, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ips, err := resolver.LookupNetIP(traceLookup(ctx), to.ip, to.host)
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		addrs[i] = netip.AddrPortFrom(ip.Unmap(), to.port)
	}
	return addrs, nil
}

// dialable returns raddr as a connection to it will show it. An unspecified address
// becomes loopback, to which every system connects it; so it counts as a loopback
// target from here on. A zone given as an interface's index becomes the interface's
// name. Beyond link-local addresses a zone has no meaning (RFC 4007, section 4) and is
// dropped.
func dialable(raddr netip.AddrPort) netip.AddrPort {
	addr := zoned(raddr.Addr())
	if addr.IsUnspecified() {
		addr = netaddr.Loopback(addr)
	}
	return netip.AddrPortFrom(addr, raddr.Port())
}

// zoned returns addr with its zone as the system shows it.
func zoned(addr netip.Addr) netip.Addr {
	if addr.IsLinkLocalUnicast() || addr.IsLinkLocalMulticast() {
		return addr.WithZone(zoneName(addr.Zone()))
	}
	return addr.WithZone("")
}

// zoneName returns the name of the interface whose index zone is. It returns zone itself
// if an interface has that name, as package net does, or if none has that index.
func zoneName(zone string) string {
	index, err := strconv.Atoi(zone)
	if err != nil {
		return zone
	}
	if _, err := net.InterfaceByName(zone); err == nil {
		return zone
	}
	ifi, err := net.InterfaceByIndex(index)
	if err != nil {
		return zone // connect will tell
	}
	return ifi.Name
}
