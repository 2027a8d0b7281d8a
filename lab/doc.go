// Package lab builds networks for tests in Linux network namespaces: hosts, links, a
// wire with delay and loss, firewalls and NATs. It touches no interface of the
// machine and installs nothing. It runs as root and as an ordinary user, then inside
// a user namespace.
//
// A network is described as one would draw it:
//
//	//  a ──lanA── natA ──┐
//	//                  wire 20 ms ── r
//	//  b ──lanB── natB ──┘
//	n := lab.Start(t, lab.Topology{
//		Wires: lab.Wires{"wire": {Delay: 10 * time.Millisecond}},
//		Hosts: lab.Hosts{
//			"a":    {On: lab.On{"lanA": "10.1.0.2/24"}, Via: "10.1.0.1", Role: "peer"},
//			"natA": {On: lab.On{"lanA": "10.1.0.1/24", "wire": "192.0.0.65/24"}, NAT: &lab.NAT{Outside: "wire"}},
//			"b":    {On: lab.On{"lanB": "10.2.0.2/24"}, Via: "10.2.0.1", Role: "peer"},
//			"natB": {On: lab.On{"lanB": "10.2.0.1/24", "wire": "192.0.0.66/24"}, NAT: &lab.NAT{Outside: "wire"}},
//			"r":    {On: lab.On{"wire": "192.0.0.80/24"}, Role: "peer"},
//		},
//	})
//
// A host with a [Role] is a process of its own: the test binary runs again and is
// told over its standard input what to do. TestMain gives it its roles, see [Main]. A
// role defines operations with [Handle], and the test calls them with [Call]:
//
//	func peer(p *lab.Process) error {
//		lab.Handle(p, "dial", func(ctx context.Context, addr string) (string, error) { ... })
//		return p.Serve()
//	}
//
//	local, err := lab.Call[string](ctx, n, "a", "dial", "/ip4/192.0.0.80/tcp/4001")
//
// A host without a role is only a namespace: a router, a NAT, or a host that never
// answers. Everything ends with the test, or with its process if that is killed: all
// hosts live in one PID namespace, which the kernel then clears.
//
// [Network.Log] returns what crossed a wire, when, and what was lost.
//
// The package compiles on every system. Where it cannot build a network, Start skips
// the test with the reason, or fails it if CI is set in the environment.
package lab
