//go:build !linux

package reuseport

import "errors"

// guard is for Linux alone: other systems have no unprivileged program that
// keeps later joiners out.
func guard(laddr listenAddr, control controlFunc) error {
	return errors.ErrUnsupported
}
