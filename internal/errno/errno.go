//go:build !plan9

// Package errno says what an error number means. Each system has its own numbers.
// Each function looks through wrapping.
package errno

import (
	"errors"
	"slices"
	"syscall"
)

// IsAddrInUse reports whether a bind, listen or connect failed because another socket has the
// address or the 4-tuple.
func IsAddrInUse(err error) bool { return errors.Is(err, addrInUse) }

// IsAddrNotAvail reports whether an address is not the host's, or (on Linux) whether a
// connect met a connection with the same 4-tuple.
func IsAddrNotAvail(err error) bool { return errors.Is(err, addrNotAvail) }

// IsRefused reports whether the peer answered a SYN with a reset.
func IsRefused(err error) bool { return errors.Is(err, refused) }

// IsTimedOut reports whether the kernel gave a connect up, because nobody answered.
func IsTimedOut(err error) bool { return errors.Is(err, timedOut) }

// IsRejected reports whether a SYN was turned away: by the peer, by a NAT or firewall on
// the way, or by nobody until the kernel gave up.
func IsRejected(err error) bool { return isOneOf(err, rejected) }

// IsNotConnected reports whether shutdown found that the connection no longer exists,
// because the peer has reset it.
func IsNotConnected(err error) bool { return isOneOf(err, notConnected) }

// IsOutOfResources reports whether the process or the system has reached a limit,
// whatever was asked for.
func IsOutOfResources(err error) bool { return isOneOf(err, outOfResources) }

func isOneOf(err error, errnos []syscall.Errno) bool {
	return slices.ContainsFunc(errnos, func(e syscall.Errno) bool { return errors.Is(err, e) })
}

// IsErrno reports whether err comes from a system call.
func IsErrno(err error) bool { return number(err) != 0 }

// AcceptHarmless reports whether accept lost one connection and can go on at once.
func AcceptHarmless(err error) bool { return slices.Contains(acceptHarmless, number(err)) }

// AcceptStarved reports whether accept can go on once others have had time to finish.
func AcceptStarved(err error) bool {
	n := number(err)
	return slices.Contains(outOfResources, n) || slices.Contains(acceptStarved, n)
}

// AcceptDead reports whether accept will never succeed on that socket again.
func AcceptDead(err error) bool { return slices.Contains(acceptDead, number(err)) }

// number returns the first error number in err, or 0.
func number(err error) (n syscall.Errno) {
	errors.As(err, &n)
	return n
}
