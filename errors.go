package reuseport

import (
	"context"
	"errors"
	"net"
	"os"
)

// errNoReuseOption marks that the system refused the socket options for reuse.
var errNoReuseOption = errors.New("reuseport: socket options for reuse refused")

// errSelfConnection is the fault of a dial that reached its own socket.
var errSelfConnection = errors.New("reuseport: connected to itself")

// errPathBlocked is the fault of a local address that was not tried, on the
// advice of pathHealth.
var errPathBlocked = errors.New("reuseport: what left this port was not answered lately")

// localFault says whether a failed dial blames the local address, and how. Only
// then is another local address worth a SYN; NoCause means that err is the
// answer. The error of a dial is *net.OpError{*os.SyscallError{Errno}}, so the
// errno is found by errors.Is alone.
func localFault(err error) Cause {
	call, ok := errors.AsType[*os.SyscallError](err)
	switch {
	case ok && call.Syscall == "bind":
		return bindFault(call.Err)
	case ok && (isAddrInUse(call.Err) || isAddrNotAvail(call.Err)):
		return TupleInUse // EADDRNOTAVAIL on Linux, EADDRINUSE elsewhere
	case ok && call.Syscall == "connect":
		return NoCause
	case errors.Is(err, errSelfConnection):
		return SelfConnection
	case errors.Is(err, errPathBlocked):
		return PathSilent
	case errors.Is(err, errNoReuseOption):
		return NoListener
	}
	return NoCause
}

// bindFault sorts what bind refuses. Whatever it refuses, no SYN has left.
func bindFault(err error) Cause {
	switch {
	case isAddrInUse(err):
		return BindConflict
	case errors.Is(err, os.ErrPermission):
		return BindDenied
	default:
		return AddrGone
	}
}

// outOfTime is the end of a dial by the deadline of its context. Package net has a
// timer of its own, which is first more often than not, and whose error matches
// os.ErrDeadlineExceeded alone (TestDialDeadline).
type outOfTime struct{ error }

func (outOfTime) Timeout() bool { return true }

func (outOfTime) Is(target error) bool { return target == context.DeadlineExceeded }

func (e outOfTime) Unwrap() error { return e.error }

// nameDeadline makes a dial's error match context.DeadlineExceeded where package
// net's timer ended it.
func nameDeadline(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok && errors.Is(op.Err, os.ErrDeadlineExceeded) {
		op.Err = outOfTime{op.Err}
	}
	return err
}
