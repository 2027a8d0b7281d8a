//go:build !windows && !plan9

package errno

import "syscall"

const (
	addrInUse    = syscall.EADDRINUSE
	addrNotAvail = syscall.EADDRNOTAVAIL
	refused      = syscall.ECONNREFUSED
	brokenPipe   = syscall.EPIPE
)

var (
	rejected = []syscall.Errno{
		refused, syscall.ECONNRESET, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ETIMEDOUT,
		syscall.EACCES,                // ICMPv6 "administratively prohibited" (RFC 6092, REC-34)
		hostDown, syscall.ENOPROTOOPT, // rarer ICMP codes
	}
	notConnected   = []syscall.Errno{syscall.ENOTCONN}
	outOfResources = []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS}
	// EINVAL: the socket does not listen (any more). EOPNOTSUPP is in Linux's accept(2)
	// among the network errors to retry, but it also is the lasting answer of a socket
	// that is not SOCK_STREAM, and no TCP of Linux passes it up: dead, so that it cannot
	// loop.
	acceptDead = []syscall.Errno{
		syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK, syscall.EOPNOTSUPP,
	}
)
