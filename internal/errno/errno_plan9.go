// Package errno says what an error of a system call means. Plan 9 has strings instead of
// numbers. It has no reuse of ports either, so the predicates that only such dials need report
// false.
package errno

import (
	"errors"
	"strings"
	"syscall"
)

// IsAddrInUse reports whether somebody has the address.
func IsAddrInUse(err error) bool { return has(err, "address in use") }

// IsAddrNotAvail reports whether an address is not the host's.
func IsAddrNotAvail(err error) bool { return has(err, "address not available") }

// IsRefused reports whether the peer refused the connection.
func IsRefused(err error) bool { return has(err, "connection refused") }

// IsTimedOut reports false.
func IsTimedOut(err error) bool { return false }

// IsRejected reports whether a SYN was turned away.
func IsRejected(err error) bool { return IsRefused(err) }

// IsNotConnected reports false.
func IsNotConnected(err error) bool { return false }

// IsOutOfResources reports whether the process has reached its limit of descriptors.
func IsOutOfResources(err error) bool { return errors.Is(err, syscall.EMFILE) }

// IsErrno reports false: the text of an error does not tell whether the system made it.
func IsErrno(err error) bool { return false }

// AcceptHarmless reports false.
func AcceptHarmless(err error) bool { return false }

// AcceptStarved reports whether accept can go on once others have had time to finish.
func AcceptStarved(err error) bool { return IsOutOfResources(err) }

// AcceptDead reports false.
func AcceptDead(err error) bool { return false }

func has(err error, words string) bool {
	return err != nil && strings.Contains(err.Error(), words)
}
