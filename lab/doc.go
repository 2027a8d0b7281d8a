// Package lab builds networks for tests: hosts, links, a wire with delay and
// loss, firewalls and NATs, in Linux network namespaces. It touches no interface
// of the machine, installs nothing, and runs as root and as an ordinary user
// (inside a user namespace then).
//
// A network is written down as one would draw it:
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
// A host with a [Role] is a process of its own: the test binary once more, told
// what to do over its standard input. TestMain gives it its roles, see [Main];
// a role says with [Handle] what it can be asked for, and the test asks with
// [Call]:
//
//	func peer(p *lab.Process) error {
//		lab.Handle(p, "dial", func(ctx context.Context, addr string) (string, error) { ... })
//		return p.Serve()
//	}
//
//	local, err := lab.Call[string](ctx, n, "a", "dial", "/ip4/192.0.0.80/tcp/4001")
//
// A host without a role is a namespace only: a router, a NAT, or someone whose
// packets nobody answers. Everything ends with the test, or with its process if
// that is killed: the kernel sees to it, as all hosts live in one PID namespace.
//
// What crossed a wire, when, and what was lost is in [Network.Log].
//
// The package compiles everywhere; where it cannot build, Start skips the test
// with the reason, or fails it if the environment has CI set.
package lab
