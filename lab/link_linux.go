package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// layCables makes the veth pairs and takes both ends up.
func (k *keeper) layCables(cables []cable) error {
	for name, w := range k.topo.Wires {
		wire, err := newWire(name, w)
		if err != nil {
			return err
		}
		k.wires[name] = wire
	}
	for i, c := range cables {
		if err := k.layCable(i, c); err != nil {
			return fmt.Errorf("%s at %s: %w", c.name, c.a, err)
		}
	}
	return nil
}

// layCable lays the i-th cable. The far end of one that leads to no host, but to a
// wire or nowhere, stays with the keeper, as ei.
func (k *keeper) layCable(i int, c cable) error {
	near := k.nodes[c.a]
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.Name, veth.HardwareAddr, veth.Namespace = c.name, mac(i, 0), netlink.NsFd(near.ns)
	veth.PeerName, veth.PeerHardwareAddr = fmt.Sprintf("e%d", i), mac(i, 1)
	if c.wire {
		veth.GSOMaxSegs = 1 // one frame is one packet: Loss is per packet, a log entry one segment
	}
	if c.b != "" {
		veth.PeerName, veth.PeerNamespace = c.name, netlink.NsFd(k.nodes[c.b].ns)
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("veth: %w", err)
	}
	return errors.Join(near.setUp(c.name), k.finishFarEnd(i, c, veth.PeerName))
}

func (k *keeper) finishFarEnd(i int, c cable, far string) error {
	switch {
	case c.wire:
		return k.wires[c.name].plug(c.a, far, mac(i, 0))
	case c.b != "":
		return k.nodes[c.b].setUp(c.name)
	}
	l, err := netlink.LinkByName(far)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// mac is the address of one end of the i-th cable: locally administered, and
// the same each time, so that link-local addresses are too.
func mac(i, end int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0, 0, byte(end), byte(i >> 8), byte(i)}
}

func (n *node) setUp(link string) error {
	return n.setLink(change{Link: link, Up: true})
}

func (n *node) setLink(c change) error {
	l, err := n.nl.LinkByName(c.Link)
	if err != nil {
		return fmt.Errorf("%s: %w", c.Link, err)
	}
	if c.Up {
		return n.nl.LinkSetUp(l)
	}
	return n.nl.LinkSetDown(l)
}

func (n *node) addAddr(c change) error { return n.eachAddr(c, n.nl.AddrAdd) }
func (n *node) delAddr(c change) error { return n.eachAddr(c, n.nl.AddrDel) }

func (n *node) eachAddr(c change, fn func(netlink.Link, *netlink.Addr) error) error {
	prefixes, err := parsePrefixes(c.Addr)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTopology, err)
	}
	l, err := n.nl.LinkByName(c.Link)
	if err != nil {
		return fmt.Errorf("%s: %w", c.Link, err)
	}
	for _, p := range prefixes {
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := fn(l, addr); err != nil {
			return fmt.Errorf("%s on %s: %w", p, c.Link, err)
		}
	}
	return nil
}

// ipNet keeps the host part: the prefix of an interface address has one.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (n *node) setSysctl(c change) error {
	return n.in(func() error { return writeSysctl(c.Sysctl, c.Value) })
}
