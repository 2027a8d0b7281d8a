//go:build !windows && !plan9

package reuseport

import (
	"errors"
	"syscall"
)

func isAddrInUse(err error) bool    { return errors.Is(err, syscall.EADDRINUSE) }
func isAddrNotAvail(err error) bool { return errors.Is(err, syscall.EADDRNOTAVAIL) }

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// isRejected says whether a SYN was turned away: by the peer, by a NAT or
// firewall on the way, or by nobody until the kernel gave up.
func isRejected(err error) bool {
	return isRefused(err) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EHOSTUNREACH) ||
		errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.ETIMEDOUT) ||
		errors.Is(err, syscall.EACCES) || // ICMPv6 "administratively prohibited" (RFC 6092, REC-34)
		errors.Is(err, syscall.EHOSTDOWN) || errors.Is(err, syscall.ENOPROTOOPT) // rarer ICMP codes
}

// isBrokenPipe says whether err is that of a write after the FIN.
func isBrokenPipe(err error) bool { return errors.Is(err, syscall.EPIPE) }

// outOfResources says whether err speaks of a limit that the process or the
// system has reached, not of what was asked for.
func outOfResources(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) ||
		errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.ENOBUFS)
}
