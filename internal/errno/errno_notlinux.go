//go:build unix && !linux

package errno

import "syscall"

const hostDown = syscall.EHOSTDOWN

var (
	// No network errors: the BSDs and macOS have EINTR and ECONNABORTED, Solaris and AIX
	// EPROTO as well.
	acceptHarmless = []syscall.Errno{
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EPROTO, syscall.EINTR,
	}
	acceptStarved []syscall.Errno // outOfResources is all
)
