//go:build unix && !solaris && !illumos && !aix

package reuseport

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// allowReuse sets SO_REUSEPORT on a socket that already listens: dials of ours
// may now bind its port, and nobody got in while it was bound (listen would have
// failed). TestTwoStartersOneWins pins the order.
func allowReuse(c syscall.RawConn) error {
	var opt error
	err := c.Control(func(fd uintptr) {
		opt = os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	})
	return errors.Join(err, opt)
}

// inheritsLinger: what a socket accepts has its SO_LINGER, on Linux and the BSDs
// (TestLingerZero).
const inheritsLinger = true

// isV6Only reads IPV6_V6ONLY of an IPv6 socket.
func isV6Only(c syscall.RawConn) (bool, error) {
	var on int
	var opt error
	err := c.Control(func(fd uintptr) {
		on, opt = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
	})
	return on != 0, errors.Join(err, os.NewSyscallError("getsockopt", opt))
}

// dupSocket returns a duplicate descriptor of a socket as a file. It does not go
// through os.File.Fd, which would make the shared socket block for a moment.
func dupSocket(c syscall.RawConn) (*os.File, error) {
	var dup int
	var call error
	err := c.Control(func(fd uintptr) {
		dup, call = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err := errors.Join(err, os.NewSyscallError("fcntl", call)); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(dup), "listener"), nil
}

// setExclusive does nothing: on Unix a listen without SO_REUSEPORT is exclusive.
func setExclusive(c syscall.RawConn) error { return nil }
