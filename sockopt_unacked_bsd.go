//go:build freebsd || netbsd

package reuseport

import (
	"os"

	"golang.org/x/sys/unix"
)

// discardFlag: the BSDs have no way to drop bytes without copying them.
const discardFlag = 0

// finUnacked is what unacked counts for a FIN that is not acknowledged: nothing.
const finUnacked = 0

// fionwrite is FIONWRITE of <sys/filio.h>, _IOR('f', 119, int).
const fionwrite = 0x40046677

// unacked returns how many bytes were written and not acknowledged: FIONWRITE, the
// bytes in the send buffer. It does not count a FIN. Built, not run.
func unacked(fd uintptr) (int, error) {
	n, err := unix.IoctlGetInt(int(fd), fionwrite)
	return n, os.NewSyscallError("ioctl", err)
}
