//go:build !linux

package reuseport

import (
	"errors"
	"syscall"
)

// guard is for Linux alone: other systems have no unprivileged program that
// keeps later joiners out.
func guard(syscall.RawConn) error { return errors.ErrUnsupported }

// guardListening is guard for a socket that listens already.
func guardListening(syscall.RawConn) error { return errors.ErrUnsupported }

// keepBindFlat is for Linux alone, whose bind has a memory to be set right.
func keepBindFlat(port uint16) error { return errors.ErrUnsupported }
