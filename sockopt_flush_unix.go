//go:build unix && !aix

package reuseport

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// canFlush: Close can wait for what the peer acknowledges, or at least for its end.
const canFlush = true

// discard reads what the peer has sent into buf, to be forgotten. It does not
// block. The peer's FIN is io.EOF; n is 0 without an error if there is nothing.
func discard(fd uintptr, buf []byte) (n int, err error) {
	for {
		n, _, err = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT|discardFlag)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return 0, nil
		case err == nil && n == 0:
			return 0, io.EOF
		}
		return n, os.NewSyscallError("recv", err)
	}
}

// shutdownWrite sends a FIN after what is in the send buffer. It fails with
// ENOTCONN where the connection exists no more.
func shutdownWrite(fd uintptr) error {
	return os.NewSyscallError("shutdown", unix.Shutdown(int(fd), unix.SHUT_WR))
}

// isGone says whether an error of shutdownWrite means that the peer has reset.
func isGone(err error) bool { return errors.Is(err, unix.ENOTCONN) }

// setLinger makes close reset (true) or deliver (false).
func setLinger(fd uintptr, reset bool) error {
	var l unix.Linger
	if reset {
		l.Onoff = 1
	}
	return os.NewSyscallError("setsockopt", unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &l))
}

// dupSocketFD returns a second descriptor of a socket.
func dupSocketFD(fd uintptr) (uintptr, error) {
	dup, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	return uintptr(dup), os.NewSyscallError("fcntl", err)
}

func closeSocketFD(fd uintptr) error { return os.NewSyscallError("close", unix.Close(int(fd))) }
