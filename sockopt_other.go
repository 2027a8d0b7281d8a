//go:build !windows && !(unix && !solaris && !illumos && !aix)

package reuseport

import (
	"errors"
	"os"
	"syscall"
)

// These systems have no reuse of listening ports. Each call says so; Listen and
// Dial then work without.

func allowReuse(c syscall.RawConn) error { return errors.ErrUnsupported }

func isV6Only(c syscall.RawConn) (bool, error) { return true, errors.ErrUnsupported }

func dupSocket(c syscall.RawConn) (*os.File, error) { return nil, errors.ErrUnsupported }

// setExclusive does nothing: a plain listen is exclusive here.
func setExclusive(c syscall.RawConn) error { return nil }

// inheritsLinger: accepted connections get SO_LINGER one by one.
const inheritsLinger = false

// toInherit does nothing.
func toInherit(uintptr) {}
