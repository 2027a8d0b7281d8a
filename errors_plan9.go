package reuseport

import (
	"errors"
	"strings"
	"syscall"
)

// Plan 9 has error strings instead of numbers, and no reuse of ports: these
// serve Listen alone.
func isAddrInUse(err error) bool { return strings.Contains(err.Error(), "address in use") }

func isAddrNotAvail(err error) bool { return strings.Contains(err.Error(), "address not available") }

func isRefused(err error) bool { return strings.Contains(err.Error(), "connection refused") }

// isRejected says whether a SYN was turned away. Without reuse nothing is punched.
func isRejected(err error) bool { return isRefused(err) }

// isBrokenPipe says whether err is that of a write after the FIN.
func isBrokenPipe(err error) bool { return false }

// outOfResources says whether err speaks of a limit that the process or the
// system has reached, not of what was asked for.
func outOfResources(err error) bool {
	return errors.Is(err, syscall.EMFILE)
}
