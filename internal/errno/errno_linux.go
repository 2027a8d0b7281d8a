package errno

import "syscall"

const hostDown = syscall.EHOSTDOWN

var (
	// The peer is gone, or an error of the network was pending on the new socket, which
	// accept(2) passes up "like EAGAIN".
	acceptHarmless = []syscall.Errno{
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EPROTO, syscall.EINTR,
		syscall.ENETDOWN, syscall.ENOPROTOOPT, syscall.EHOSTDOWN, syscall.ENONET,
		syscall.EHOSTUNREACH, syscall.ENETUNREACH,
	}
	// Beside outOfResources. ENOSPC is fs.epoll.max_user_watches, met when package net
	// registers the new descriptor; EPERM a firewall rule or security module, which may
	// be asked again but not in a busy loop.
	acceptStarved = []syscall.Errno{syscall.ENOSPC, syscall.EPERM}
)
