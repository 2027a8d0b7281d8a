//go:build !linux && !darwin && !freebsd && !netbsd

package reuseport

import "errors"

const (
	discardFlag = 0
	finUnacked  = 0
)

// unacked fails: these systems do not tell what the peer has acknowledged.
func unacked(fd uintptr) (int, error) { return 0, errors.ErrUnsupported }
