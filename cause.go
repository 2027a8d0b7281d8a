package reuseport

import "fmt"

// Cause says why a connection did not leave from a listening port.
type Cause uint8

const (
	// NoCause: the connection reuses a listening port, or was accepted.
	NoCause Cause = iota

	// ByPolicy: NewPort was asked for.
	ByPolicy

	// NoListener: no open listener fits the target (family, loopback, route),
	// or the system lacks SO_REUSEPORT.
	NoListener

	// TupleInUse: the 4-tuple belongs to another connection.
	TupleInUse

	// BindConflict: a stranger holds the port in a way that excludes us.
	BindConflict

	// AddrGone: the listener's address has left the host.
	AddrGone

	// BindDenied: binding the port is a privilege that this process lacks, as
	// with a listener on port 443 that systemd opened.
	BindDenied

	// SelfConnection: the target is the only listener that fits, and from its own
	// port the dial would be connected to itself.
	SelfConnection

	// HedgeWon: the SYN from the listening port was unanswered, and a second dial
	// from an ephemeral port was answered.
	HedgeWon

	// PathSilent: HedgeWon was the end of an earlier dial to this host, or to
	// hosts of many networks.
	PathSilent

	causes // how many there are
)

// String returns a few words for people and for labels of metrics.
func (c Cause) String() string {
	names := [causes]string{
		"none", "policy", "no listener", "4-tuple in use", "bind conflict",
		"address gone", "bind denied", "self-connection", "hedge won", "path silent",
	}
	if c >= causes {
		return fmt.Sprintf("Cause(%d)", uint8(c))
	}
	return names[c]
}
