//go:build (!unix && !windows) || aix || solaris

package sockopt

import (
	"errors"
	"syscall"
)

// SetReuse fails: go-reuseport does not compile on Solaris, illumos and AIX, and does
// nothing on Plan 9, js and WASI.
func SetReuse(network, address string, c syscall.RawConn) error { return errors.ErrUnsupported }

// SetReusePort fails as SetReuse does.
func SetReusePort(fd uintptr, on bool) error { return errors.ErrUnsupported }

// FINUnacked is what Unacked counts for a FIN that is not acknowledged: nothing.
const FINUnacked = 0

// Unacked fails: these systems do not tell what the peer has acknowledged.
func Unacked(fd uintptr) (int, error) { return 0, errors.ErrUnsupported }

// HasUnread fails: it is of use only together with Unacked.
func HasUnread(fd uintptr) (bool, error) { return false, errors.ErrUnsupported }
