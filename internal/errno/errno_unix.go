//go:build !windows && !plan9

package errno

import "syscall"

const (
	addrInUse    = syscall.EADDRINUSE
	addrNotAvail = syscall.EADDRNOTAVAIL
	refused      = syscall.ECONNREFUSED
	timedOut     = syscall.ETIMEDOUT
)

var (
	rejected = []syscall.Errno{
		refused, syscall.ECONNRESET, syscall.EHOSTUNREACH, syscall.ENETUNREACH, timedOut,
		syscall.EACCES,                // ICMPv6 "administratively prohibited" (RFC 6092, REC-34)
		hostDown, syscall.ENOPROTOOPT, // rarer ICMP codes
	}
	notConnected   = []syscall.Errno{syscall.ENOTCONN}
	outOfResources = []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS}
	// EINVAL: the socket does not listen, or no longer. EOPNOTSUPP: Linux's accept(2) lists
	// it among the network errors to retry, but Linux's TCP never passes it up, and a
	// socket that is not SOCK_STREAM returns it for ever. As dead it cannot cause a loop.
	acceptDead = []syscall.Errno{
		syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK, syscall.EOPNOTSUPP,
	}
)
