package lab

import "time"

// Topology describes a network: hosts, and what connects them. The zero Topology is a
// network without hosts.
type Topology struct {
	// Hosts by name. Logs and errors use the names too.
	Hosts Hosts

	// Wires by name. Any other name in [Host.On] is a link: a cable between two
	// hosts, or, with one host, a stub that ends nowhere.
	Wires Wires
}

// Hosts are hosts by name.
type Hosts = map[string]Host

// Wires are wires by name.
type Wires = map[string]Wire

// On says what a host is plugged into. The key is the name of a link or a wire; it is
// also the name of the host's interface, and so the zone of its link-local addresses.
// The value is the list of addresses there, with prefix lengths and separated by
// spaces: "192.0.0.65/24 fd00::65/64". An empty string leaves only the automatic
// link-local address.
type On = map[string]string

// Host is one network namespace. With a Role it is also a process.
type Host struct {
	On On

	// Via holds the default gateways, at most one per family, separated by spaces:
	// "10.1.0.1 fd01::1". Empty means no default route.
	Via string

	Routes []Route
	Rules  []Rule

	// Sysctls are set before the interfaces exist. The keys are dotted names:
	// "net.ipv4.tcp_timestamps": "0". Only those below net. belong to a namespace.
	Sysctls map[string]string

	// Forward makes the host a router. NAT and Firewall imply it.
	Forward bool

	// NAT, if not nil, translates what leaves through NAT.Outside.
	NAT *NAT

	// Firewall, if not nil, admits only connections that begin inside. A host has a
	// NAT or a Firewall but not both: a NAT filters by itself.
	Firewall *Firewall

	// Role names the function of this binary that runs on the host, see [Enter]. A
	// host without a role is only a namespace, which is enough for a router.
	Role string
}

// Route is a route of a host.
type Route struct {
	To    string // prefix; "default" for IPv4 and "default6" for IPv6
	Via   string // gateway; empty = the target is on the link itself
	Dev   string // link or wire; empty = the one of the gateway
	Src   string // preferred source address; empty = the kernel's choice
	Table int    // zero = main

	// Prohibit makes the host reject packets with the ICMP message "administratively
	// prohibited". Via, Dev and Src stay empty then.
	Prohibit bool
}

// Rule is a policy rule: packets that match all set fields use Table.
type Rule struct {
	From, To string // prefix; empty = any
	Mark     uint32 // zero = any
	Proto    string // "tcp", "udp" or empty = any
	Table    int
	Priority int  // lower comes first; zero = before all existing rules
	IPv6     bool // makes it an IPv6 rule if neither From nor To says so
}

// Mapping is the mapping behaviour of a NAT, RFC 4787 section 4.1 and RFC 5382
// section 4.1.
type Mapping int

const (
	// PortPreserving is endpoint-independent mapping that keeps the source port if it
	// is free.
	PortPreserving Mapping = iota

	// PortShifting is endpoint-independent mapping to a port from 20000 to 29999. A
	// peer must use the mapping that was observed; it cannot guess it.
	PortShifting

	// AddressAndPortDependent gives each connection a port of its own. A TCP
	// simultaneous open cannot cross it.
	AddressAndPortDependent
)

// Filtering is the filtering behaviour of a NAT, RFC 4787 section 5 and
// RFC 5382 section 4.2.
type Filtering int

const (
	// FilterAddressAndPort admits only replies: packets from an address and port that
	// were sent to. Linux connection tracking does this.
	FilterAddressAndPort Filtering = iota

	// FilterNone is endpoint-independent filtering: anyone can send to a mapping.
	FilterNone
)

// Unsolicited is what happens to a packet that the filtering does not admit.
type Unsolicited int

const (
	// Drop discards it, as RFC 5382 REQ-4 demands.
	Drop Unsolicited = iota

	// Reset answers TCP with a RST and discards anything else. If the packet belongs
	// to a punch, the RST ends the mapping at the other NAT.
	Reset
)

// NAT translates what leaves through one link or wire to the host's address there,
// for both IPv4 and IPv6. The zero values of its behaviours are those of a Linux
// router.
type NAT struct {
	Outside     string // link or wire
	Mapping     Mapping
	Filtering   Filtering
	Unsolicited Unsolicited
}

// Firewall is a stateful filter. Connections that begin outside are unsolicited,
// whether to the host itself or to those behind it.
type Firewall struct {
	Outside     string // link or wire
	Unsolicited Unsolicited
}

// Wire is a switch between any number of hosts. It delays, loses, drops and records
// what crosses it. ARP and IPv6 neighbour discovery cross at once and are neither
// lost nor recorded, since tests are about the traffic, and the kernel may resolve
// neighbours in the middle of it.
type Wire struct {
	// Delay is the time that a frame takes one way; the round trip takes twice as
	// long. Zero or negative = none.
	Delay time.Duration

	// Jitter is the upper bound of a random time added to Delay, evenly distributed
	// for each frame. The frames of one host stay in order, so a burst is as late as
	// its slowest frame so far. Zero or negative = none.
	Jitter time.Duration

	// Loss is the fraction of frames that get lost, 0 to 1.
	Loss float64

	// Drop lists packets that never get through.
	Drop []Match
}

// Match selects packets that match all set fields. The zero Match selects every
// packet.
type Match struct {
	SYN     bool   // TCP with SYN and without ACK
	Src     string // prefix or address; empty = any
	Dst     string // prefix or address; empty = any
	SrcPort uint16 // zero = any
	DstPort uint16 // zero = any
}
