package errno

import "syscall"

// hostDown: WASI has no EHOSTDOWN.
const hostDown = syscall.EHOSTUNREACH

var (
	acceptHarmless = []syscall.Errno{
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EPROTO, syscall.EINTR,
	}
	acceptStarved []syscall.Errno // outOfResources is all
)
