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
	// Besides outOfResources. ENOSPC means that fs.epoll.max_user_watches is reached when
	// package net registers the new descriptor. EPERM comes from a firewall rule or a
	// security module, which may allow the next accept; the wait prevents a busy loop.
	acceptStarved = []syscall.Errno{syscall.ENOSPC, syscall.EPERM}
)
