package labtest

import (
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport/lab"
)

const (
	relayPort = 4001

	// startLimit bounds the time in which a host learns its public address: go-libp2p
	// looks after 0.25, 0.75, 1.75 and 3.75 s.
	startLimit = 20 * time.Second

	// callLimit bounds a try: go-libp2p makes three attempts of 10 s.
	callLimit = 35 * time.Second
)

func TestMain(m *testing.M) {
	lab.Main(m, lab.Roles{"libp2p": libp2pRole})
}

// world is two hosts behind NATs, and a relay.
//
//	a ──lanA── natA ──┐
//	                  ├── wire ── r
//	b ──lanB── natB ──┘
//
// The addresses on the wire are public to go-libp2p, but are not routed anywhere.
func world(t *testing.T, wire lab.Wire, nat lab.NAT) *lab.Network {
	t.Helper()
	nat.Outside = "wire"
	return lab.Start(t, lab.Topology{
		Wires: lab.Wires{"wire": wire},
		Hosts: lab.Hosts{
			"a":    {On: lab.On{"lanA": "10.1.0.2/24"}, Via: "10.1.0.1", Role: "libp2p"},
			"natA": {On: lab.On{"lanA": "10.1.0.1/24", "wire": "192.0.0.65/24"}, NAT: &nat},
			"b":    {On: lab.On{"lanB": "10.2.0.2/24"}, Via: "10.2.0.1", Role: "libp2p"},
			"natB": {On: lab.On{"lanB": "10.2.0.1/24", "wire": "192.0.0.66/24"}, NAT: &nat},
			"r":    {On: lab.On{"wire": "192.0.0.80/24"}, Role: "libp2p"},
		},
	})
}

// scene is a world while it is in use.
type scene struct {
	*lab.Network
	t     *testing.T
	relay peer.AddrInfo
	port  uint16 // of the last try
}

func newScene(t *testing.T, wire lab.Wire, nat lab.NAT) *scene {
	t.Helper()
	s := &scene{Network: world(t, wire, nat), t: t, port: relayPort}
	s.relay = ask[peer.AddrInfo](s, "r", "open", setup{Transport: stock, Port: relayPort})
	s.relay.Addrs = slices.DeleteFunc(s.relay.Addrs, func(a ma.Multiaddr) bool { return manet.IsIPLoopback(a) })
	return s
}

// ask calls an operation that must succeed.
func ask[Out any](s *scene, host, op string, in any) Out {
	s.t.Helper()
	out, err := lab.Call[Out](s.t.Context(), s.Network, host, op, in)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}
