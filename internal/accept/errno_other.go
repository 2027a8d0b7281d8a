//go:build !linux && !windows && !plan9

package accept

import "syscall"

// The systems without network errors in accept: the BSDs and macOS (EINTR and
// ECONNABORTED), solaris and aix (EPROTO as well), js and wasip1 (none).
var (
	harmless = []syscall.Errno{
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EPROTO, syscall.EINTR,
	}
	starved = []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
	}
	dead = []syscall.Errno{
		syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK, syscall.EOPNOTSUPP,
	}
)
