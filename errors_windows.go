package reuseport

import (
	"errors"

	"golang.org/x/sys/windows"
)

// Winsock reports its own numbers (10048, 10049), which package syscall's
// EADDRINUSE and EADDRNOTAVAIL of Windows are not.
func isAddrInUse(err error) bool    { return errors.Is(err, windows.WSAEADDRINUSE) }
func isAddrNotAvail(err error) bool { return errors.Is(err, windows.WSAEADDRNOTAVAIL) }

func isRefused(err error) bool { return errors.Is(err, windows.WSAECONNREFUSED) }

// isRejected says whether a SYN was turned away: by the peer, by a NAT or
// firewall on the way, or by nobody until the kernel gave up.
func isRejected(err error) bool {
	return isRefused(err) || errors.Is(err, windows.WSAECONNRESET) || errors.Is(err, windows.WSAEHOSTUNREACH) ||
		errors.Is(err, windows.WSAENETUNREACH) || errors.Is(err, windows.WSAETIMEDOUT)
}

// isBrokenPipe says whether err is that of a write after the FIN.
func isBrokenPipe(err error) bool { return errors.Is(err, windows.WSAESHUTDOWN) }

// outOfResources says whether err speaks of a limit that the process or the
// system has reached, not of what was asked for.
func outOfResources(err error) bool {
	return errors.Is(err, windows.WSAEMFILE) || errors.Is(err, windows.WSAENOBUFS)
}
