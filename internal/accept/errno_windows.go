package accept

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// Winsock has numbers of its own: syscall.EMFILE and its like are inventions of
// package syscall there, and no system call returns them.
var (
	// ERROR_NETNAME_DELETED is AcceptEx's word for a reset connection.
	harmless = []syscall.Errno{
		windows.WSAECONNABORTED, windows.WSAECONNRESET, windows.WSAEINTR,
		windows.WSAENETDOWN, windows.ERROR_NETNAME_DELETED,
	}
	starved = []syscall.Errno{
		windows.WSAEMFILE, windows.WSAENOBUFS,
		windows.ERROR_NOT_ENOUGH_MEMORY, windows.ERROR_NO_SYSTEM_RESOURCES,
	}
	dead = []syscall.Errno{
		windows.WSAEBADF, windows.WSAEINVAL, windows.WSAENOTSOCK,
		windows.WSAEOPNOTSUPP, windows.ERROR_INVALID_HANDLE,
	}
)
