package holepunch

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/reusetransport/reuseport/lab"
)

// Scene is a network of two peers and a rendezvous:
//
//	a ──lanA── borderA ──┐
//	                    wire ── r
//	b ──lanB── borderB ──┘
//
// The borders differ from scene to scene: NATs, firewalls, or none. Without a border
// the peer is on the wire itself.
type Scene struct {
	RTT  time.Duration // between the borders
	A, B Border
	IPv6 bool // punch over IPv6
}

// Border is what stands in front of a peer. The Scene sets its Outside. The zero
// Border means none.
type Border struct {
	NAT      *lab.NAT
	Firewall *lab.Firewall
}

// NATed is a border that translates.
func NATed(m lab.Mapping, u lab.Unsolicited) Border {
	return Border{NAT: &lab.NAT{Mapping: m, Unsolicited: u}}
}

// Firewalled is a stateful firewall that does not translate.
func Firewalled(u lab.Unsolicited) Border {
	return Border{Firewall: &lab.Firewall{Unsolicited: u}}
}

func (b Border) public() bool { return b.NAT == nil && b.Firewall == nil }

const (
	wire           = "wire"
	rendezvousPort = 7000
)

// Rendezvous returns the address at which both peers find out their mappings.
func (s Scene) Rendezvous() netip.AddrPort {
	if s.IPv6 {
		return netip.MustParseAddrPort("[fd00::80]:7000")
	}
	return netip.MustParseAddrPort("192.0.0.80:7000")
}

// Topology returns the scene as a network. The outside addresses are in 192.0.0.0/24,
// which RFC 6890 reserves and which is not routed anywhere.
func (s Scene) Topology() lab.Topology {
	t := lab.Topology{
		Wires: lab.Wires{wire: {Delay: s.RTT / 2}},
		Hosts: lab.Hosts{"r": {
			On:     lab.On{wire: "192.0.0.80/24 fd00::80/64"},
			Routes: append(toA(s), toB(s)...),
			Role:   roleRendezvous,
		}},
	}
	s.A.add(t.Hosts, "a", "borderA", side{lan: "lanA", net4: "10.1.0", net6: "fd01::", out4: "192.0.0.65", out6: "fd00::65"}, toB(s))
	s.B.add(t.Hosts, "b", "borderB", side{lan: "lanB", net4: "10.2.0", net6: "fd02::", out4: "192.0.0.66", out6: "fd00::66"}, toA(s))
	return t
}

// side holds the addresses of one half of a scene.
type side struct{ lan, net4, net6, out4, out6 string }

// add adds a peer and its border.
func (b Border) add(hosts lab.Hosts, peer, border string, at side, routes []lab.Route) {
	outside := at.out4 + "/24 " + at.out6 + "/64"
	if b.public() {
		hosts[peer] = lab.Host{On: lab.On{wire: outside}, Routes: routes, Role: rolePeer}
		return
	}
	h := lab.Host{On: lab.On{wire: outside, at.lan: at.net4 + ".1/24 " + at.net6 + "1/64"}, Routes: routes}
	if b.NAT != nil {
		nat := *b.NAT
		nat.Outside = wire
		h.NAT = &nat
	} else {
		fw := *b.Firewall
		fw.Outside = wire
		h.Firewall = &fw
	}
	hosts[border] = h
	hosts[peer] = lab.Host{
		On:   lab.On{at.lan: at.net4 + ".2/24 " + at.net6 + "2/64"},
		Via:  at.net4 + ".1 " + at.net6 + "1",
		Role: rolePeer,
	}
}

// toA and toB are the routes to a peer behind a firewall, whose address is visible
// outside.
func toA(s Scene) []lab.Route {
	if s.A.Firewall == nil {
		return nil
	}
	return []lab.Route{{To: "10.1.0.0/24", Via: "192.0.0.65"}, {To: "fd01::/64", Via: "fd00::65"}}
}

func toB(s Scene) []lab.Route {
	if s.B.Firewall == nil {
		return nil
	}
	return []lab.Route{{To: "10.2.0.0/24", Via: "192.0.0.66"}, {To: "fd02::/64", Via: "fd00::66"}}
}

// Try is one punch. Each needs a port of its own, because NATs remember the last one.
type Try struct {
	Port         uint16
	From         From
	LateA, LateB time.Duration // how long a side waits before it starts
	Patience     time.Duration // zero = 4 s
	OnlyA        bool          // b does not dial: it accepts
}

// Result is the result of a try.
type Result struct {
	Try
	SeenA, SeenB netip.AddrPort // the mappings that the rendezvous saw
	A, B         Outcome
	Start        time.Time
}

// Connected reports whether both sides are connected.
func (r Result) Connected() bool { return r.A.Connected && r.B.Connected }

// Open starts the rendezvous of a network built from a Scene.
func Open(ctx context.Context, n *lab.Network) error {
	return n.Call(ctx, "r", "listen", rendezvousPort, nil)
}

// Run makes one try: both peers learn their mappings, are told each other's, and
// punch. It returns an error if the rendezvous does not work.
func (s Scene) Run(ctx context.Context, n *lab.Network, t Try) (Result, error) {
	res := Result{Try: t}
	err := both(
		func() (err error) { res.SeenA, err = s.open(ctx, n, "a", t.Port); return err },
		func() (err error) { res.SeenB, err = s.open(ctx, n, "b", t.Port); return err },
	)
	if err != nil {
		return res, err
	}
	res.Start = time.Now().Add(30 * time.Millisecond) // both must have heard by then
	err = both(
		func() (err error) { res.A, err = t.punch(ctx, n, "a", res.SeenB, res.Start.Add(t.LateA)); return err },
		func() (err error) {
			res.B, err = t.answer().punch(ctx, n, "b", res.SeenA, res.Start.Add(t.LateB))
			return err
		},
	)
	return res, errors.Join(err, n.Call(ctx, "a", "shut", t.Port, nil), n.Call(ctx, "b", "shut", t.Port, nil))
}

func (s Scene) open(ctx context.Context, n *lab.Network, host string, port uint16) (netip.AddrPort, error) {
	return lab.Call[netip.AddrPort](ctx, n, host, "open", opening{Port: port, Rendezvous: s.Rendezvous()})
}

func (t Try) punch(ctx context.Context, n *lab.Network, host string, to netip.AddrPort, at time.Time) (Outcome, error) {
	patience := t.Patience
	if patience == 0 {
		patience = 4 * time.Second
	}
	return lab.Call[Outcome](ctx, n, host, "punch", attempt{Port: t.Port, To: to, From: t.From, At: at, Patience: patience})
}

// answer returns what b does in a try.
func (t Try) answer() Try {
	if t.OnlyA {
		t.From = accept
	}
	return t
}

// both runs two functions at the same time.
func both(f, g func() error) error {
	var wg sync.WaitGroup
	var errF, errG error
	wg.Go(func() { errF = f() })
	wg.Go(func() { errG = g() })
	wg.Wait()
	return errors.Join(errF, errG)
}
