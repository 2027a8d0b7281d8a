package lab

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// layCables makes the wires and the veth pairs, and brings both ends of each pair up.
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

// layCable lays the i-th cable. If its far end leads to no host, but to a wire or
// nowhere, the keeper holds that end, under the name e<i>.
func (k *keeper) layCable(i int, c cable) error {
	near := k.nodes[c.a]
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.Name, veth.HardwareAddr, veth.Namespace = c.name, mac(i, 0), netlink.NsFd(near.ns)
	veth.PeerName, veth.PeerHardwareAddr = fmt.Sprintf("e%d", i), mac(i, 1)
	if c.wire {
		veth.GSOMaxSegs = 1 // a frame is one packet: Loss applies per packet, and a log entry is one segment
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

// mac returns the address of one end of the i-th cable. It is locally administered
// and the same in every run, and so are the link-local addresses made from it.
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

func (n *node) delAddr(c change) error { return n.eachAddr(c, n.nl.AddrDel) }

// deprecate ends the preferred lifetime of addresses and no valid one.
func (n *node) deprecate(c change) error {
	return n.eachAddr(c, func(l netlink.Link, addr *netlink.Addr) error {
		addr.ValidLft = math.MaxInt32 // in seconds: for ever
		return n.nl.AddrReplace(l, addr)
	})
}

func (n *node) addAddr(c change) error {
	return n.eachAddr(c, func(l netlink.Link, addr *netlink.Addr) error {
		if err := n.nl.AddrAdd(l, addr); err != nil {
			return err
		}
		return n.awaitLocal(l, addr)
	})
}

// awaitLocal waits until an IPv6 address is the host's own. The kernel adds the local
// route from a work queue, after the route to the prefix. A dial to the address in
// between asks the link for it and hangs (16 of 600 tries on 6.18).
func (n *node) awaitLocal(l netlink.Link, addr *netlink.Addr) error {
	if addr.IP.To4() != nil || l.Attrs().Flags&net.FlagUp == 0 {
		return nil
	}
	host := &net.IPNet{IP: addr.IP, Mask: net.CIDRMask(128, 128)}
	want := &netlink.Route{Table: unix.RT_TABLE_LOCAL, LinkIndex: l.Attrs().Index, Dst: host}
	deadline := time.Now().Add(localRouteLimit)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		routes, err := n.nl.RouteListFiltered(unix.AF_INET6, want,
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST)
		if err != nil || len(routes) > 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no local route after %v", localRouteLimit)
		}
		time.Sleep(wait)
	}
}

// localRouteLimit bounds the wait for the kernel's work queue. The queue shares a
// lock with all namespaces that come and go on the machine: at a load of 20 it has
// taken more than 5 s.
const localRouteLimit = 30 * time.Second

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

// ipNet keeps the host bits, which the prefix of an interface address has.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (n *node) setSysctl(c change) error {
	return n.in(func() error { return writeSysctl(c.Sysctl, c.Value) })
}
