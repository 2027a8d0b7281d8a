package accept

import (
	"errors"
	"syscall"
)

// classifySystem knows the one error string of Plan 9 that passes by itself.
func classifySystem(err error) (Kind, bool) {
	if errors.Is(err, syscall.EMFILE) {
		return Starved, true
	}
	return Unknown, false
}
