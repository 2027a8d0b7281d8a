package errno

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// Winsock has numbers of its own: syscall.EADDRINUSE, syscall.EMFILE and their like are
// inventions of package syscall here, and no system call returns them.
const (
	addrInUse    = windows.WSAEADDRINUSE
	addrNotAvail = windows.WSAEADDRNOTAVAIL
	refused      = windows.WSAECONNREFUSED
	timedOut     = windows.WSAETIMEDOUT
)

var (
	rejected = []syscall.Errno{
		refused, windows.WSAECONNRESET, windows.WSAEHOSTUNREACH, windows.WSAENETUNREACH, timedOut,
	}
	notConnected   = []syscall.Errno{windows.WSAENOTCONN, windows.WSAECONNRESET}
	outOfResources = []syscall.Errno{windows.WSAEMFILE, windows.WSAENOBUFS}
	// ERROR_NETNAME_DELETED is AcceptEx's word for a reset connection.
	acceptHarmless = []syscall.Errno{
		windows.WSAECONNABORTED, windows.WSAECONNRESET, windows.WSAEINTR,
		windows.WSAENETDOWN, windows.ERROR_NETNAME_DELETED,
	}
	// Besides outOfResources.
	acceptStarved = []syscall.Errno{
		windows.ERROR_NOT_ENOUGH_MEMORY, windows.ERROR_NO_SYSTEM_RESOURCES,
	}
	acceptDead = []syscall.Errno{
		windows.WSAEBADF, windows.WSAEINVAL, windows.WSAENOTSOCK,
		windows.WSAEOPNOTSUPP, windows.ERROR_INVALID_HANDLE,
	}
)
