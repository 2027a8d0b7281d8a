//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

//	namespace of the hosts                      namespace of the sinks
//	10.77.0.1/16  bench0 ---------------- bench0  10.77.0.2/16
//	10.80.0.1/30  bench1 ---------------- bench1  10.80.0.2/30
//	10.80.0.5/30  bench2 ---------------- bench2  10.80.0.6/30
//	     ...         as many links as asked for
//	10.78.0.0/16 via 10.77.0.2            10.78.0.0/16 all local
//	198.18.0.0/16 via 10.77.0.2           198.18.0.0/16 all local
//
// The dials go to 10.78.0.0/16 and leave from 10.77.0.1, as the routes say, or to
// 198.18.0.0/16 (RFC 2544, for benchmarks), which counts as global. 10.77.9.0/24 is
// on the link, but has no hosts.

// Namespace runs scenarios among links of its own.
type Namespace struct{}

// NamespaceArgs say what to run there.
type NamespaceArgs struct {
	Links int
	Plan  Plan
}

// Run builds the links and runs the scenarios. The process must have been started in
// a network namespace of its own, which ends with the process.
func (n *Namespace) Run(args NamespaceArgs, results *[]Result) error {
	sinks, err := spawn(workerOptions{newNet: true})
	if err != nil {
		return err
	}
	err = joinNamespaces(sinks, args.Links)
	if err == nil {
		*results, err = args.Plan.run(linksArena(sinks))
	}
	return errors.Join(err, sinks.close())
}

// linksArena is the arena among the links. All probes use the one process of the
// sinks.
func linksArena(sinks *worker) *arena {
	silent := netip.MustParseAddr("10.77.9.0")
	return &arena{
		local: []netip.Addr{netip.MustParseAddr("10.77.0.1"), linkAddr(1, 1)},
		dests: func(port uint16) ([]*Addr, error) { return block(netip.MustParseAddr("10.78.0.1"), port, destinations) },
		global: func(port uint16) ([]*Addr, error) {
			return block(netip.MustParseAddr("198.18.0.1"), port, destinations)
		},
		silent: func() (*Addr, error) {
			silent = silent.Next() // one per peer: a failed neighbour look-up is remembered
			return newAddr(netip.AddrPortFrom(silent, 9))
		},
		spawn: func() (*worker, error) { return &worker{Client: sinks.Client}, nil },
	}
}

// joinNamespaces makes the links, moves one end of each to the sinks and configures
// both sides.
func joinNamespaces(sinks *worker, links int) error {
	for i := range links {
		if err := addLink(i, sinks.pid()); err != nil {
			return fmt.Errorf("link %d: %w", i, err)
		}
	}
	if err := configure(1, links); err != nil {
		return err
	}
	return sinks.Call("Namespace.ConfigureSinks", links, new(Nothing))
}

// ConfigureSinks is configure for the sinks' end, in their process.
func (n *Namespace) ConfigureSinks(links int, _ *Nothing) error { return configure(2, links) }

// addLink makes a pair of links and moves the other end to the process's namespace.
func addLink(i, pid int) error {
	name := linkName(i)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsPid(pid)}
	return netlink.LinkAdd(pair)
}

// linkName returns the name of a link, the same at both ends.
func linkName(i int) string { return fmt.Sprintf("bench%d", i) }

// linkAddr returns the address of an end (1 or 2) of a link.
func linkAddr(i, end int) netip.Addr {
	if i == 0 {
		return netip.AddrFrom4([4]byte{10, 77, 0, byte(end)})
	}
	return netip.AddrFrom4([4]byte{10, 80, byte(i >> 6), byte(i<<2 + end)})
}

// configure gives every link its address and sets the routes of one end.
func configure(end, links int) error {
	if err := up("lo"); err != nil {
		return err
	}
	for i := range links {
		if err := address(i, end); err != nil {
			return fmt.Errorf("link %d: %w", i, err)
		}
	}
	return errors.Join(route(end, net.IPv4(10, 78, 0, 0)), route(end, net.IPv4(198, 18, 0, 0)))
}

// address gives a link its address and brings it up.
func address(i, end int) error {
	link, err := netlink.LinkByName(linkName(i))
	if err != nil {
		return err
	}
	bits := 30
	if i == 0 {
		bits = 16
	}
	ip := net.IP(linkAddr(i, end).AsSlice())
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(bits, 32)}}
	return errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link))
}

// up brings a link up.
func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// route routes 65,536 destinations to the sinks; at the sinks' end it makes them all
// local.
func route(end int, first net.IP) error {
	dests := &net.IPNet{IP: first, Mask: net.CIDRMask(16, 32)}
	if end == 1 {
		return netlink.RouteAdd(&netlink.Route{Dst: dests, Gw: net.IP(linkAddr(0, 2).AsSlice())})
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{
		Dst: dests, LinkIndex: lo.Attrs().Index, Table: unix.RT_TABLE_LOCAL,
		Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
	})
}

// inNamespace runs scenarios in a new namespace with links of its own.
func inNamespace(args NamespaceArgs) ([]Result, error) {
	w, err := spawn(workerOptions{newNet: true, newUser: os.Getuid() != 0})
	if err != nil {
		return nil, err
	}
	var results []Result
	err = w.Call("Namespace.Run", args, &results)
	return results, errors.Join(err, w.close())
}
