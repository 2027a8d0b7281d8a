package lab_test

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/lab"
)

func TestListenerOnTheRoute(t *testing.T) {
	t.Parallel()
	n := twoNetworks(t, "ours")
	for name, pick := range families() {
		listenOnBoth(t, n, pick)
		east, west := pick("10.1.0.1:4001", "[fd01::1]:4001"), pick("10.2.0.1:4002", "[fd02::1]:4002")
		wantFrom(t, n, name+" east", dialTo{Addr: pick(eastV4, eastV6)}, east)
		wantFrom(t, n, name+" west", dialTo{Addr: pick(westV4, westV6)}, west)
		wantFrom(t, n, name+" far", dialTo{Addr: pick(farV4, farV6)}, east)
	}
}

// Rules redirect the far target from the east to the west.
func TestListenerUnderRules(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		rule func(pick func(v4, v6 string) string) lab.Rule
		mark int
	}{
		"to prefix":   {rule: func(pick func(v4, v6 string) string) lab.Rule { return lab.Rule{To: pick("10.9.0.0/16", "fd09::/64")} }},
		"fwmark":      {rule: func(func(v4, v6 string) string) lab.Rule { return lab.Rule{Mark: 7} }, mark: 7},
		"ipproto tcp": {rule: func(func(v4, v6 string) string) lab.Rule { return lab.Rule{Proto: "tcp"} }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := twoNetworks(t, "ours")
			for family, pick := range families() {
				listenOnBoth(t, n, pick)
				far := dialTo{Addr: pick(farV4, farV6), Mark: tt.mark}
				wantFrom(t, n, family+" before", far, pick("10.1.0.1:4001", "[fd01::1]:4001"))
				rule := tt.rule(pick)
				rule.Table, rule.IPv6 = viaWest, rule.To == "" && family == "IPv6"
				if err := n.AddRule("h", rule); err != nil {
					t.Fatal(err)
				}
				wantFrom(t, n, family+" after", far, pick("10.2.0.1:4002", "[fd02::1]:4002"))
				wantFrom(t, n, family+" elsewhere", dialTo{Addr: pick(eastV4, eastV6), Mark: tt.mark}, pick("10.1.0.1:4001", "[fd01::1]:4001"))
			}
		})
	}
}

func TestListenerAfterRouteChange(t *testing.T) {
	t.Parallel()
	n := twoNetworks(t, "ours")
	for name, pick := range families() {
		listenOnBoth(t, n, pick)
		far := dialTo{Addr: pick(farV4, farV6)}
		wantFrom(t, n, name+" before", far, pick("10.1.0.1:4001", "[fd01::1]:4001"))
		route := lab.Route{To: pick("10.9.0.0/16", "fd09::/64"), Via: pick("10.2.0.2", "fd02::2")}
		if err := n.AddRoute("h", route); err != nil {
			t.Fatal(err)
		}
		wantFrom(t, n, name+" after", far, pick("10.2.0.1:4002", "[fd02::1]:4002"))
	}
}

// TestKeptAsker wants the socket that asks for source addresses to be right again
// after rules have changed.
func TestKeptAsker(t *testing.T) {
	t.Parallel()
	n := twoNetworks(t, "bare")
	for name, pick := range families() {
		listenOnBoth(t, n, pick)
		east, west := pick("10.1.0.1:4001", "[fd01::1]:4001"), pick("10.2.0.1:4002", "[fd02::1]:4002")
		far := dialTo{Addr: pick(farV4, farV6)}
		wantFrom(t, n, name+" before", far, east)
		wantFrom(t, n, name+" west", dialTo{Addr: pick(westV4, westV6)}, west)
		if err := n.AddRule("h", lab.Rule{Proto: "tcp", Table: viaWest, IPv6: name == "IPv6"}); err != nil {
			t.Fatal(err)
		}
		wantFrom(t, n, name+" under a rule", far, west)
		wantFrom(t, n, name+" east", dialTo{Addr: pick(eastV4, eastV6)}, east)
	}
}

// TestAskersLeaveNothing makes 32 dials at a time, which must keep one socket per
// family. Shutdown closes them, and so does the garbage collector if Shutdown is
// never called.
func TestAskersLeaveNothing(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"shutdown", "abandon"} {
		n := twoNetworks(t, "bare")
		empty := socketsOf(t, n)
		for _, pick := range families() {
			listenOnBoth(t, n, pick)
		}
		before := socketsOf(t, n)
		for _, far := range []string{farV4, farV6, farV4, farV6} {
			call[struct{}](t, n, "h", "dialAtOnce", manyTo{far, 32})
		}
		if got, want := socketsOf(t, n), before+len(families()); got != want {
			t.Errorf("%d sockets after the dials, want %d", got, want)
		}
		call[struct{}](t, n, "h", end, struct{}{})
		got := socketsOf(t, n)
		for try := 0; end == "abandon" && got > empty && try < 50; try++ {
			call[struct{}](t, n, "h", "collect", struct{}{})
			got = socketsOf(t, n)
		}
		if got > empty {
			t.Errorf("%d sockets after %s, %d at first", got, end, empty)
		}
	}
}

func socketsOf(t *testing.T, n *lab.Network) int {
	t.Helper()
	return call[int](t, n, "h", "sockets", struct{}{})
}

// Without TCP Fast Open in the system, a UDP socket asks for the source.
func TestListenerWithoutFastOpen(t *testing.T) {
	t.Parallel()
	n := twoNetworks(t, "ours")
	if err := n.SetSysctl("h", "net.ipv4.tcp_fastopen", "0"); err != nil {
		t.Fatal(err)
	}
	for name, pick := range families() {
		listenOnBoth(t, n, pick)
		rule := lab.Rule{Mark: 7, Table: viaWest, IPv6: name == "IPv6"}
		if err := n.AddRule("h", rule); err != nil {
			t.Fatal(err)
		}
		far := pick(farV4, farV6)
		wantFrom(t, n, name, dialTo{Addr: far}, pick("10.1.0.1:4001", "[fd01::1]:4001"))
		wantFrom(t, n, name+" marked", dialTo{Addr: far, Mark: 7}, pick("10.2.0.1:4002", "[fd02::1]:4002"))
	}
}

// With a specific listener the source is looked up, by a socket that is kept for it: bound to
// the wildcard, the dial to the west would leave from our port number on an address that nobody
// listens on.
func TestOneSpecificListener(t *testing.T) {
	t.Parallel()
	n := twoNetworks(t, "ours")
	for name, pick := range families() {
		listen(t, n, "h", pick("/ip4/10.1.0.1/tcp/4001", "/ip6/fd01::1/tcp/4001"))
		wantFrom(t, n, name, dialTo{Addr: pick(farV4, farV6)}, pick("10.1.0.1:4001", "[fd01::1]:4001"))
		d, err := dial(t, n, dialTo{Addr: pick(westV4, westV6)})
		if err != nil {
			t.Fatal(err)
		}
		if west := netip.MustParseAddr(pick("10.2.0.1", "fd02::1")); d.Local.Addr() != west || d.Reused {
			t.Errorf("%s: to the west from %v, reused %v, want %v and not reused", name, d.Local, d.Reused, west)
		}
		if d.Local.Port() == 4001 {
			t.Errorf("%s: from the listening port's number on %v", name, d.Local)
		}
		listen(t, n, "h", pick("/ip4/10.2.0.1/tcp/4002", "/ip6/fd02::1/tcp/4002"))
		if d, err = dial(t, n, dialTo{Addr: pick(westV4, westV6)}); err != nil || d.Sockets != 2 {
			t.Errorf("%s: two listeners: %d sockets, %v, want one that asks and one that dials", name, d.Sockets, err)
		}
	}
}

// The listener is on the second address of the interface that the route names, and the kernel
// would choose the first. The dial leaves from the listener all the same.
func TestListenerOnSecondAddress(t *testing.T) {
	t.Parallel()
	n := lab.Start(t, lab.Topology{Hosts: lab.Hosts{
		"h": {On: lab.On{"east": "10.1.0.1/24 10.1.0.5/24 fd01::1/64 fd01::5/64"}, Role: "ours"},
		"e": {On: lab.On{"east": "10.1.0.2/24 fd01::2/64"}, Role: "plain"},
	}})
	listen(t, n, "e", ":7001")
	for name, pick := range families() {
		east := pick(eastV4, eastV6)
		plain, err := dial(t, n, dialTo{Addr: east, Use: reuseport.NewPort})
		second := pick("10.1.0.5", "fd01::1") // of IPv6 addresses Linux prefers the last
		if err != nil || plain.Local.Addr().String() == second {
			t.Fatalf("%s: %+v, %v: the kernel's own choice is the second address", name, plain, err)
		}
		listen(t, n, "h", pick("/ip4/", "/ip6/")+second+"/tcp/4001")
		for _, use := range []reuseport.PortUse{reuseport.PreferReuse, reuseport.RequireReuse} {
			wantFrom(t, n, name+" "+use.String(), dialTo{Addr: east, Use: use}, net.JoinHostPort(second, "4001"))
		}
	}
}

// The listener is on an IPv6 address that is deprecated, as an old but stable one is after
// renumbering. The kernel would choose the other address of the interface; the dial leaves from the
// listener.
func TestListenerOnDeprecatedAddress(t *testing.T) {
	t.Parallel()
	n := lab.Start(t, lab.Topology{Hosts: lab.Hosts{
		"h": {On: lab.On{"east": "fd01::1/64 fd01::5/64"}, Role: "ours"},
		"e": {On: lab.On{"east": "fd01::2/64"}, Role: "plain"},
	}})
	listen(t, n, "e", ":7001")
	plain, err := dial(t, n, dialTo{Addr: eastV6, Use: reuseport.NewPort})
	if err != nil {
		t.Fatal(err)
	}
	old := plain.Local.Addr().String()
	if err := n.Deprecate("h", "east", old+"/64"); err != nil {
		t.Fatal(err)
	}
	if plain, err = dial(t, n, dialTo{Addr: eastV6, Use: reuseport.NewPort}); err != nil || plain.Local.Addr().String() == old {
		t.Fatalf("%+v, %v: the kernel still chooses %s", plain, err, old)
	}
	listen(t, n, "h", "/ip6/"+old+"/tcp/4001")
	for _, use := range []reuseport.PortUse{reuseport.PreferReuse, reuseport.RequireReuse} {
		wantFrom(t, n, use.String(), dialTo{Addr: eastV6, Use: use}, net.JoinHostPort(old, "4001"))
	}
}

// The only listener is on another interface than the route's, as that of a VPN. A dial does not
// leave from there unless it must: then the host's routing has the word. Here a rule for that
// source sends it by its own interface, where the far target is to be found too.
func TestListenerOnAnotherInterface(t *testing.T) {
	t.Parallel()
	n := twoNetworks(t, "ours")
	for name, pick := range families() {
		listen(t, n, "h", pick("/ip4/10.2.0.1/tcp/4002", "/ip6/fd02::1/tcp/4002"))
		rule := lab.Rule{From: pick("10.2.0.1/32", "fd02::1/128"), Table: viaWest}
		if err := n.AddRule("h", rule); err != nil {
			t.Fatal(err)
		}
		far := pick(farV4, farV6)
		d, err := dial(t, n, dialTo{Addr: far})
		if east := netip.MustParseAddr(pick("10.1.0.1", "fd01::1")); err != nil || d.Reused || d.Local.Addr() != east || d.Local.Port() == 4002 {
			t.Errorf("%s: %+v, %v, want an ephemeral port on %v", name, d, err, east)
		}
		wantFrom(t, n, name, dialTo{Addr: far, Use: reuseport.RequireReuse}, pick("10.2.0.1:4002", "[fd02::1]:4002"))
	}
}

// Another program listens on our port of another address. The wildcard conflicts, the
// exact address does not.
func TestStrangerOnSamePort(t *testing.T) {
	t.Parallel()
	n := twoNetworks(t, "ours")
	for name, pick := range families() {
		listen(t, n, "h", pick("/ip4/10.1.0.1/tcp/4001", "/ip6/fd01::1/tcp/4001"))
		if err := n.Call(t.Context(), "h", "stranger", pick("10.2.0.1:4001", "[fd02::1]:4001"), nil); err != nil {
			t.Fatal(err)
		}
		wildcard := pick("0.0.0.0:4001", "[::]:4001")
		_, err := observe(t, n, "h", wildcard, pick("10.1.0.2:7001", "[fd01::2]:7001"))
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s: binding the wildcard: %v, want EADDRINUSE: is the stranger there?", name, err)
		}
		wantFrom(t, n, name, dialTo{Addr: pick(eastV4, eastV6)}, pick("10.1.0.1:4001", "[fd01::1]:4001"))
	}
}

// A loopback listener cannot serve a dial to another host (connect gives EINVAL in
// IPv4, and EADDRNOTAVAIL or EINVAL in IPv6), and must not hinder it.
func TestLoopbackListenerForGlobalTarget(t *testing.T) {
	t.Parallel()
	n := twoNetworks(t, "ours")
	for name, pick := range families() {
		listen(t, n, "h", pick("/ip4/127.0.0.1/tcp/4001", "/ip6/::1/tcp/4001"))
		_, err := observe(t, n, "h", pick("127.0.0.1:4009", "[::1]:4009"), pick("10.1.0.2:7001", "[fd01::2]:7001"))
		if err == nil {
			t.Errorf("%s: the kernel dials elsewhere from loopback", name)
		}
		d, err := dial(t, n, dialTo{Addr: pick(eastV4, eastV6)})
		if err != nil || d.Reused {
			t.Errorf("%s: got %+v, %v, want a dial from an ephemeral port", name, d, err)
		}
		_, err = dial(t, n, dialTo{Addr: pick(eastV4, eastV6), Use: reuseport.RequireReuse})
		if !errors.Is(err, reuseport.ErrNoReuse) {
			t.Errorf("%s: RequireReuse: %v, want ErrNoReuse", name, err)
		}
	}
}

// A link-local target keeps its zone, whatever else listens. Both neighbours have the
// same link-local address.
func TestLinkLocal(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		listen string
		port   uint16 // that the dial must leave from; zero = an ephemeral one
	}{
		"loopback":    {"/ip6/::1/tcp/4001", 0},
		"unspecified": {"/ip6/::/tcp/4001", 4001},
		"specific":    {"/ip6/fd01::1/tcp/4001", 0},
		"link-local":  {"/ip6zone/east/ip6/fe80::1/tcp/4001", 4001},
		"IPv4":        {"/ip4/0.0.0.0/tcp/4001", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := linkLocals(t)
			listen(t, n, "h", tt.listen)
			d, err := dial(t, n, dialTo{Addr: "/ip6zone/east/ip6/fe80::2/tcp/7001"})
			if err != nil {
				t.Fatal(err)
			}
			if d.Local.Addr().WithZone("") != netip.MustParseAddr("fe80::1") || d.Local.Addr().Zone() != "east" {
				t.Errorf("left from %v, want fe80::1%%east", d.Local)
			}
			if tt.port != 0 && (d.Local.Port() != tt.port || !d.Reused) {
				t.Errorf("left from %v, reused %v (%s), want port %d", d.Local, d.Reused, d.Cause, tt.port)
			}
			if _, err := dial(t, n, dialTo{Addr: "/ip6zone/west/ip6/fe80::2/tcp/7001"}); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("the other zone, where nobody listens: %v, want ECONNREFUSED", err)
			}
		})
	}
}

// linkLocals returns a host with two neighbours that share one address. The one in
// the east listens.
func linkLocals(t *testing.T) *lab.Network {
	t.Helper()
	n := lab.Start(t, lab.Topology{Hosts: lab.Hosts{
		"h": {On: lab.On{"east": "fe80::1/64 fd01::1/64", "west": "fe80::1/64"}, Role: "ours"},
		"e": {On: lab.On{"east": "fe80::2/64"}, Role: "plain"},
		"w": {On: lab.On{"west": "fe80::2/64"}},
	}})
	listen(t, n, "e", ":7001")
	return n
}

// A listener whose address has left the host is passed over. It serves again when the
// address is back.
func TestAddressLeaves(t *testing.T) {
	t.Parallel()
	for name, both := range map[string]bool{"one listener": false, "two listeners": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := twoNetworks(t, "ours")
			for family, pick := range families() {
				own, other := pick("10.1.0.1/24", "fd01::1/64"), pick("10.1.0.9/24", "fd01::9/64")
				to, from := dialTo{Addr: pick(eastV4, eastV6)}, pick("10.1.0.1:4001", "[fd01::1]:4001")
				listen(t, n, "h", pick("/ip4/10.1.0.1/tcp/4001", "/ip6/fd01::1/tcp/4001"))
				if both {
					listen(t, n, "h", pick("/ip4/10.2.0.1/tcp/4002", "/ip6/fd02::1/tcp/4002"))
				}
				wantFrom(t, n, family+" before", to, from)
				changeAddr(t, n, own, other)
				d, err := dial(t, n, to)
				if gone := netip.MustParsePrefix(other).Addr(); err != nil || d.Local.Addr() != gone || d.Reused {
					t.Errorf("%s: address gone: %+v, %v, want a dial from %v that is not reused", family, d, err, gone)
				}
				changeAddr(t, n, other, own)
				wantFrom(t, n, family+" back", to, from)
				if _, err := observe(t, n, "e", "", from); err != nil {
					t.Errorf("%s: dialing the listener that is back: %v", family, err)
				}
			}
		})
	}
}

func changeAddr(t *testing.T, n *lab.Network, from, to string) {
	t.Helper()
	if err := n.DelAddr("h", "east", from); err != nil {
		t.Fatal(err)
	}
	if err := n.AddAddr("h", "east", to); err != nil {
		t.Fatal(err)
	}
}

// A host that dials its own global address reaches its listener.
func TestOwnGlobalAddress(t *testing.T) {
	t.Parallel()
	for name, listeners := range map[string][2]string{
		"specific":    {"/ip4/10.1.0.1/tcp/4001", "/ip6/fd01::1/tcp/4001"},
		"unspecified": {"/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := twoNetworks(t, "ours")
			for family, pick := range families() {
				listen(t, n, "h", pick(listeners[0], listeners[1]))
				d, err := dial(t, n, dialTo{Addr: pick("/ip4/10.1.0.1/tcp/4001", "/ip6/fd01::1/tcp/4001")})
				if err != nil {
					t.Errorf("%s: %v", family, err)
				}
				own := netip.MustParseAddrPort(pick("10.1.0.1:4001", "[fd01::1]:4001"))
				if d.Local == own || d.Seen != d.Local {
					t.Errorf("%s: left from %v, the listener saw %v", family, d.Local, d.Seen)
				}
			}
		})
	}
}
