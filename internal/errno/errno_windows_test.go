package errno_test

import (
	"syscall"

	"golang.org/x/sys/windows"
)

const first, second = windows.WSAEADDRINUSE, windows.WSAECONNRESET

var rows = map[syscall.Errno][]string{
	windows.WSAEADDRINUSE:             {"IsAddrInUse"},
	windows.WSAEADDRNOTAVAIL:          {"IsAddrNotAvail"},
	windows.WSAECONNREFUSED:           {"IsRefused", "IsRejected"},
	windows.WSAECONNRESET:             {"IsRejected", "IsNotConnected", "AcceptHarmless"},
	windows.WSAEHOSTUNREACH:           {"IsRejected"},
	windows.WSAENETUNREACH:            {"IsRejected"},
	windows.WSAETIMEDOUT:              {"IsTimedOut", "IsRejected"},
	windows.WSAESHUTDOWN:              {},
	windows.WSAENOTCONN:               {"IsNotConnected"},
	windows.WSAEMFILE:                 {"IsOutOfResources", "AcceptStarved"},
	windows.WSAENOBUFS:                {"IsOutOfResources", "AcceptStarved"},
	windows.ERROR_NOT_ENOUGH_MEMORY:   {"AcceptStarved"},
	windows.ERROR_NO_SYSTEM_RESOURCES: {"AcceptStarved"},
	windows.WSAECONNABORTED:           {"AcceptHarmless"},
	windows.WSAEINTR:                  {"AcceptHarmless"},
	windows.WSAENETDOWN:               {"AcceptHarmless"},
	windows.ERROR_NETNAME_DELETED:     {"AcceptHarmless"},
	windows.WSAEBADF:                  {"AcceptDead"},
	windows.WSAEINVAL:                 {"AcceptDead"},
	windows.WSAENOTSOCK:               {"AcceptDead"},
	windows.WSAEOPNOTSUPP:             {"AcceptDead"},
	windows.ERROR_INVALID_HANDLE:      {"AcceptDead"},
	windows.WSAEACCES:                 nil,
	syscall.EADDRINUSE:                nil, // an invention of package syscall
}
