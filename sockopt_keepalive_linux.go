package reuseport

import (
	"net"

	"golang.org/x/sys/unix"
)

// ownKeepAlive is for the KeepAlive field of net.Dialer and net.ListenConfig: package
// net is not to set keep-alive, keepAlive and toInherit do.
const ownKeepAlive = -1

// keepAlive sets on a dialed connection what package net sets, in one visit to the
// descriptor instead of four (TestKeepAliveIsNets). As in package net no error comes
// back: a connection works without.
func keepAlive(c *net.TCPConn) {
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(keepAliveOptions)
	}
}

// toInherit sets on a new socket what it passes on to all that it accepts: SO_LINGER 0
// and keep-alive, which saves four system calls for each (TestKeepAliveIsNets). It
// does not fail on a socket that is new.
func toInherit(fd uintptr) {
	_ = setLinger(fd, true)
	keepAliveOptions(fd)
}

// keepAliveOptions are package net's: after 15 s, each 15 s, 9 times. The switch comes
// last, or the kernel would set its timer twice.
func keepAliveOptions(fd uintptr) {
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15)
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15)
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9)
	_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
}
