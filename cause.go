package reuseport

import (
	"errors"
	"fmt"
	"os"

	"github.com/reusetransport/reuseport/internal/errno"
)

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

	// BindDenied: binding the port needs a privilege that this process lacks, as for a
	// listener on port 443 that systemd opened.
	BindDenied

	// SelfConnection: the target is the only listener that fits, and a dial from its
	// port would be connected to itself.
	SelfConnection

	// HedgeWon: the SYN from the listening port was unanswered, and a second dial
	// from an ephemeral port was answered.
	HedgeWon

	// PathSilent: the hedge won an earlier dial to this host, or dials to hosts of many
	// networks.
	PathSilent

	// ForeignOwner: the listening socket belongs to another user, so that the kernel keeps
	// this process from its port (Linux). See Transport.WrapListener.
	ForeignOwner

	causes // how many there are
)

// String returns a few words for people and for labels of metrics.
func (c Cause) String() string {
	names := [causes]string{
		"none", "policy", "no listener", "4-tuple in use", "bind conflict",
		"address gone", "bind denied", "self-connection", "hedge won", "path silent", "foreign owner",
	}
	if c >= causes {
		return fmt.Sprintf("Cause(%d)", uint8(c))
	}
	return names[c]
}

// localFault returns which fault of the local address made a dial fail. After such a fault
// another local address is worth a SYN. NoCause means that there is none, and err is the
// answer. The error of a dial is *net.OpError{*os.SyscallError{Errno}}, so only errors.Is
// finds the errno.
func localFault(err error) Cause {
	call, ok := errors.AsType[*os.SyscallError](err)
	switch {
	case ok && call.Syscall == "bind":
		return bindFault(call.Err)
	case ok && (errno.IsAddrInUse(call.Err) || errno.IsAddrNotAvail(call.Err)):
		return TupleInUse // EADDRNOTAVAIL on Linux, EADDRINUSE elsewhere
	case ok && call.Syscall == "connect":
		return NoCause
	case errors.Is(err, errTupleHeld):
		return TupleInUse
	case errors.Is(err, errSelfConnection):
		return SelfConnection
	case errors.Is(err, errPathSilent):
		return PathSilent
	case errors.Is(err, errNoReuseOption):
		return NoListener
	}
	return NoCause
}

// bindFault returns what a refused bind means. Whatever it is, no SYN has left.
func bindFault(err error) Cause {
	switch {
	case errno.IsAddrInUse(err):
		return BindConflict
	case errors.Is(err, os.ErrPermission):
		return BindDenied
	default:
		return AddrGone
	}
}

// requireError returns the error that RequireReuse promises for a cause.
func requireError(cause Cause) error {
	if cause == TupleInUse {
		return ErrTupleInUse
	}
	return ErrNoReuse
}
