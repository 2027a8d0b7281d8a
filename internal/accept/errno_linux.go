package accept

import "syscall"

// The reasons behind the lists, from accept(2) and the places that return them.
// EOPNOTSUPP is in accept(2)'s list of network errors to retry, but it also is
// the lasting answer of a socket that is not SOCK_STREAM, and no TCP of Linux
// passes it up: dead, so that it cannot loop.
var (
	// The peer is gone, or an error of the network was pending on the new
	// socket, which accept(2) passes up "like EAGAIN".
	harmless = []syscall.Errno{
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EPROTO, syscall.EINTR,
		syscall.ENETDOWN, syscall.ENOPROTOOPT, syscall.EHOSTDOWN, syscall.ENONET,
		syscall.EHOSTUNREACH, syscall.ENETUNREACH,
	}
	// ENOSPC is fs.epoll.max_user_watches, met when package net registers the
	// new descriptor; EPERM a firewall rule or security module, which may be
	// asked again but not in a busy loop.
	starved = []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.ENOSPC, syscall.EPERM,
	}
	// EINVAL: the socket does not listen (any more).
	dead = []syscall.Errno{
		syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK, syscall.EOPNOTSUPP,
	}
)
