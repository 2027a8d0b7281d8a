//go:build !linux

package reuseport

import "errors"

// guard is for Linux alone: other systems have no unprivileged program that
// keeps later joiners out.
func guard(laddr listenAddr, control controlFunc) error {
	return errors.ErrUnsupported
}

// keepBindFlat is for Linux alone, whose bind has a memory to be set right.
func keepBindFlat(port uint16) error { return errors.ErrUnsupported }
