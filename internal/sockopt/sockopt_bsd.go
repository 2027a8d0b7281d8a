//go:build dragonfly || freebsd || netbsd || openbsd

package sockopt

import (
	"errors"
	"io"
	"os"
	"runtime"
	"syscall"

	reuse "github.com/libp2p/go-reuseport"
	"golang.org/x/sys/unix"
)

// SetReuse lets a socket bind a port that others with the same options hold:
// SO_REUSEADDR and SO_REUSEPORT, and SO_REUSEPORT_LB on FreeBSD. It returns
// go-reuseport's error as it is.
func SetReuse(network, address string, c syscall.RawConn) error {
	return reuse.Control(network, address, c)
}

// SetReusePort sets or clears SO_REUSEPORT, and leaves SO_REUSEADDR alone.
func SetReusePort(fd uintptr, on bool) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, boolInt(on)))
}

// FINUnacked is what Unacked counts for a FIN that is not acknowledged: nothing.
const FINUnacked = 0

// FIONWRITE of <sys/filio.h> is _IOR('f', 119, int) on FreeBSD and _IOR('f', 121, int)
// on NetBSD. OpenBSD and DragonFly have none.
const (
	fionwriteFreeBSD = 0x40046677
	fionwriteNetBSD  = 0x40046679
)

// Unacked returns how many bytes were written and not acknowledged: FIONWRITE, the
// bytes in the send buffer. It does not count a FIN.
func Unacked(fd uintptr) (int, error) {
	switch runtime.GOOS {
	case "freebsd":
		return ioctl(fd, fionwriteFreeBSD)
	case "netbsd":
		return ioctl(fd, fionwriteNetBSD)
	}
	return 0, errors.ErrUnsupported
}

// ioctl reads a count. The kernel writes 32 bits, the low ones of the int that
// IoctlGetInt has set to zero: Go runs FreeBSD and NetBSD on little-endian systems only.
func ioctl(fd uintptr, request uint) (int, error) {
	n, err := unix.IoctlGetInt(int(fd), request)
	return n, os.NewSyscallError("ioctl", err)
}

// HasUnread reports whether the peer has sent bytes that nobody has read.
func HasUnread(fd uintptr) (bool, error) {
	var one [1]byte
	n, err := recv(fd, one[:], unix.MSG_PEEK)
	if err == io.EOF {
		return false, nil
	}
	return n > 0, err
}
