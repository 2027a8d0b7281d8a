package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func (n *node) addGateways() error {
	gateways, err := parseAddrs(n.host.Via)
	if err != nil {
		return err
	}
	for _, gw := range gateways {
		to := "default"
		if gw.Is6() {
			to = "default6"
		}
		if err := n.addRoute(change{Route: Route{To: to, Via: gw.String()}}); err != nil {
			return err
		}
	}
	return nil
}

// addRoute replaces a route to the same prefix in the same table.
func (n *node) addRoute(c change) error { return n.withRoute(c.Route, n.nl.RouteReplace) }
func (n *node) delRoute(c change) error { return n.withRoute(c.Route, n.nl.RouteDel) }

func (n *node) withRoute(r Route, fn func(*netlink.Route) error) error {
	route, err := n.parseRoute(r)
	if err != nil {
		return fmt.Errorf("%w: route to %s: %w", ErrTopology, r.To, err)
	}
	if err := fn(route); err != nil {
		return fmt.Errorf("route to %s: %w", r.To, err)
	}
	return nil
}

func (n *node) parseRoute(r Route) (*netlink.Route, error) {
	to, err := parseTarget(r.To)
	if err != nil {
		return nil, err
	}
	route := &netlink.Route{Dst: ipNet(to), Table: r.Table, Family: family(to.Addr())}
	if r.Prohibit {
		route.Type = unix.RTN_PROHIBIT
	}
	for _, f := range []struct {
		text string
		to   func(netip.Addr)
	}{
		{r.Via, func(a netip.Addr) { route.Gw = a.AsSlice() }},
		{r.Src, func(a netip.Addr) { route.Src = a.AsSlice() }},
	} {
		if f.text == "" {
			continue
		}
		a, err := netip.ParseAddr(f.text)
		if err != nil {
			return nil, err
		}
		f.to(a)
	}
	return route, n.setDev(route, r.Dev)
}

func (n *node) setDev(route *netlink.Route, dev string) error {
	if dev == "" {
		return nil
	}
	l, err := n.nl.LinkByName(dev)
	if err != nil {
		return err
	}
	route.LinkIndex = l.Attrs().Index
	if route.Gw == nil {
		route.Scope = netlink.SCOPE_LINK
	}
	return nil
}

func parseTarget(to string) (netip.Prefix, error) {
	switch to {
	case "default":
		return netip.MustParsePrefix("0.0.0.0/0"), nil
	case "default6":
		return netip.MustParsePrefix("::/0"), nil
	}
	return netip.ParsePrefix(to)
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (n *node) addRule(c change) error { return n.withRule(c.Rule, n.nl.RuleAdd) }
func (n *node) delRule(c change) error { return n.withRule(c.Rule, n.nl.RuleDel) }

func (n *node) withRule(r Rule, fn func(*netlink.Rule) error) error {
	rule, err := parseRule(r)
	if err != nil {
		return fmt.Errorf("%w: rule %+v: %w", ErrTopology, r, err)
	}
	if err := fn(rule); err != nil {
		return fmt.Errorf("rule %+v: %w", r, err)
	}
	return nil
}

func parseRule(r Rule) (*netlink.Rule, error) {
	if r.Table == 0 {
		return nil, errors.New("it names no table")
	}
	rule := netlink.NewRule()
	rule.Table, rule.Mark = r.Table, r.Mark
	if r.Priority != 0 {
		rule.Priority = r.Priority
	}
	if err := setProto(rule, r.Proto); err != nil {
		return nil, err
	}
	return rule, setSelectors(rule, r)
}

func setProto(rule *netlink.Rule, proto string) error {
	switch proto {
	case "":
	case "tcp":
		rule.IPProto = unix.IPPROTO_TCP
	case "udp":
		rule.IPProto = unix.IPPROTO_UDP
	default:
		return fmt.Errorf("protocol %q is neither tcp nor udp", proto)
	}
	return nil
}

func setSelectors(rule *netlink.Rule, r Rule) error {
	from, err := parsePrefixOrAny(r.From)
	if err != nil {
		return err
	}
	to, err := parsePrefixOrAny(r.To)
	if err != nil {
		return err
	}
	rule.Family = unix.AF_INET
	if r.IPv6 || from.Addr().Is6() || to.Addr().Is6() {
		rule.Family = unix.AF_INET6
	}
	if from.IsValid() {
		rule.Src = ipNet(from)
	}
	if to.IsValid() {
		rule.Dst = ipNet(to)
	}
	return nil
}
