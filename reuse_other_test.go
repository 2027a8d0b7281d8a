//go:build !windows && !(unix && !solaris && !illumos && !aix)

package reuseport_test

import (
	"errors"
	"syscall"
)

// legacyControl: go-reuseport does not compile here.
func legacyControl(network, address string, c syscall.RawConn) error { return errors.ErrUnsupported }
