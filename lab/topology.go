package lab

import "time"

// Topology is a network as one would draw it: hosts, and what joins them.
// The zero Topology is a network without hosts.
type Topology struct {
	// Hosts by name. A name is also the host's name in logs and errors.
	Hosts Hosts

	// Wires by name. A name in [Host.On] that is no wire is a link: a cable
	// between two hosts, or with one host a stub that ends nowhere.
	Wires Wires
}

// Hosts are hosts by name.
type Hosts = map[string]Host

// Wires are wires by name.
type Wires = map[string]Wire

// On says what a host is plugged into: the name of a link or a wire (which is
// then also the name of the host's interface, and so the zone of its
// link-local addresses) and the addresses there, with prefix length, parted by
// spaces: "192.0.0.65/24 fd00::65/64". An empty string is an interface with
// its automatic link-local address only.
type On = map[string]string

// Host is one network namespace. With a Role it is a process too.
type Host struct {
	On On

	// Via holds the default gateways, one for each family, parted by spaces:
	// "10.1.0.1 fd01::1". Empty means no default route.
	Via string

	Routes []Route
	Rules  []Rule

	// Sysctls are set before the interfaces exist, by their dotted names:
	// "net.ipv4.tcp_timestamps": "0". Only those below net. are a namespace's own.
	Sysctls map[string]string

	// Forward makes the host a router. NAT and Firewall imply it.
	Forward bool

	// NAT, if not nil, translates what leaves by NAT.Outside.
	NAT *NAT

	// Firewall, if not nil, lets connections begin from the inside only.
	// A host has a NAT or a Firewall, not both: a NAT filters by itself.
	Firewall *Firewall

	// Role names the function of this binary that runs on the host, see
	// [Enter]. Without one the host is a namespace and nothing else, which is
	// all that a router needs.
	Role string
}

// Route is a route of a host.
type Route struct {
	To    string // prefix; "default" for IPv4 and "default6" for IPv6
	Via   string // gateway; empty = the target is on the link
	Dev   string // link or wire; empty = by the gateway
	Src   string // preferred source address; empty = the kernel's choice
	Table int    // zero = main

	// Prohibit makes the host turn packets away with the ICMP message
	// "administratively prohibited". The fields between To and Table stay empty.
	Prohibit bool
}

// Rule is a policy rule: packets that match all fields set look up Table.
type Rule struct {
	From, To string // prefix; empty = any
	Mark     uint32 // zero = any
	Proto    string // "tcp", "udp" or empty = any
	Table    int
	Priority int  // lower is asked first; zero = before all rules so far
	IPv6     bool // a rule for IPv6, where neither From nor To says so
}

// Mapping is the mapping behaviour of a NAT, RFC 4787 section 4.1 and RFC 5382
// section 4.1.
type Mapping int

const (
	// PortPreserving is endpoint-independent mapping that keeps the source
	// port where it is free.
	PortPreserving Mapping = iota

	// PortShifting is endpoint-independent mapping to a port of
	// 20000 to 29999: only the mapping that was observed works, a guess does not.
	PortShifting

	// AddressAndPortDependent gives each connection a port of its own. A TCP
	// simultaneous open cannot cross it.
	AddressAndPortDependent
)

// Filtering is the filtering behaviour of a NAT, RFC 4787 section 5 and
// RFC 5382 section 4.2.
type Filtering int

const (
	// FilterAddressAndPort lets in only what answers: packets from an address
	// and port that were sent to. It is what Linux connection tracking does.
	FilterAddressAndPort Filtering = iota

	// FilterNone is endpoint-independent filtering: whoever sends to a mapping
	// reaches the inside.
	FilterNone
)

// Unsolicited is what becomes of a packet that the filtering does not let in.
type Unsolicited int

const (
	// Drop discards it, as RFC 5382 REQ-4 asks for.
	Drop Unsolicited = iota

	// Reset answers TCP with a RST and discards the rest. Such a RST ends the
	// mapping at the other NAT if it belongs to a punch.
	Reset
)

// NAT translates what leaves by one link or wire to the host's address there,
// IPv4 and IPv6 alike. The zero values of the behaviours are what a Linux
// router does.
type NAT struct {
	Outside     string // link or wire
	Mapping     Mapping
	Filtering   Filtering
	Unsolicited Unsolicited
}

// Firewall is stateful: what begins outside is unsolicited, for the host itself
// and for those behind it.
type Firewall struct {
	Outside     string // link or wire
	Unsolicited Unsolicited
}

// Wire is a switch between any number of hosts that holds up, loses, drops and
// records what crosses it. ARP and IPv6 neighbour discovery cross at once and
// are neither lost nor recorded: a test is about the traffic, and the kernel
// resolves neighbours in the middle of it.
type Wire struct {
	// Delay is what a frame takes from one host to another, one way: twice
	// that is the round trip time. Zero or negative = none.
	Delay time.Duration

	// Jitter is the most that is added to Delay, evenly distributed for each
	// frame. What one host sent stays in order, so that a burst is as late as
	// its slowest frame so far. Zero or negative = none.
	Jitter time.Duration

	// Loss is the part of frames that get lost, 0 to 1.
	Loss float64

	// Drop lists what does not get through at all.
	Drop []Match
}

// Match selects packets; one that fits all fields set matches. The zero Match
// selects every packet.
type Match struct {
	SYN     bool   // TCP with SYN and without ACK
	Src     string // prefix or address; empty = any
	Dst     string // prefix or address; empty = any
	SrcPort uint16 // zero = any
	DstPort uint16 // zero = any
}
