package reuseport

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// acceptKeepAlive is for net.ListenConfig: do not set keep-alive on what is accepted,
// for keepAliveEarly has.
const acceptKeepAlive = -1

// keepAliveEarly sets on a listening socket the keep-alive that package net sets on
// each connection: after 15 s, each 15 s, 9 times. Linux passes it on to what the
// socket accepts, which saves four system calls for each (TestAcceptedKeepAlive).
func keepAliveEarly(_, _ string, c syscall.RawConn) error {
	var opt error
	err := c.Control(func(fd uintptr) {
		opt = errors.Join(
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9))
	})
	return errors.Join(err, os.NewSyscallError("setsockopt", opt))
}
