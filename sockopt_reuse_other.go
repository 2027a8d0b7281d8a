//go:build !((unix && !solaris && !illumos && !aix) || windows)

package reuseport

import (
	"errors"
	"syscall"
)

// setReuse fails: go-reuseport does not compile on Solaris, illumos and AIX, and
// does nothing on Plan 9, js and WASI. There listening and dialing work without reuse.
func setReuse(network, address string, c syscall.RawConn) error {
	return errors.ErrUnsupported
}
