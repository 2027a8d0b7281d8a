// Package errno says what an error of a system call means. Plan 9 has strings instead of
// numbers, and no reuse of ports: what only a dial from a listening port asks is false.
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

// IsRejected reports whether a SYN was turned away.
func IsRejected(err error) bool { return IsRefused(err) }

// IsBrokenPipe reports false.
func IsBrokenPipe(err error) bool { return false }

// IsNotConnected reports false.
func IsNotConnected(err error) bool { return false }

// IsOutOfResources reports whether the process has reached its limit of descriptors.
func IsOutOfResources(err error) bool { return errors.Is(err, syscall.EMFILE) }

// IsErrno reports false, for the words of an error cannot be told from anybody's.
func IsErrno(err error) bool { return false }

// AcceptHarmless reports false.
func AcceptHarmless(err error) bool { return false }

// AcceptStarved reports whether accept can go on when others had time to finish.
func AcceptStarved(err error) bool { return IsOutOfResources(err) }

// AcceptDead reports false.
func AcceptDead(err error) bool { return false }

func has(err error, words string) bool {
	return err != nil && strings.Contains(err.Error(), words)
}
