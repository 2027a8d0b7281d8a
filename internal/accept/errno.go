//go:build !plan9

package accept

import (
	"errors"
	"slices"
	"syscall"
)

// classifySystem reports false for an error that is no error number.
func classifySystem(err error) (Kind, bool) {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return Unknown, false
	}
	switch {
	case slices.Contains(harmless, errno):
		return Harmless, true
	case slices.Contains(starved, errno):
		return Starved, true
	case slices.Contains(dead, errno):
		return Dead, true
	}
	return Unknown, true
}
