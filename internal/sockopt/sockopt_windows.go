package sockopt

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	reuse "github.com/libp2p/go-reuseport"
	"golang.org/x/sys/windows"
)

// SetReuse lets a socket bind a port that others with the same option hold:
// SO_REUSEADDR, which on Windows means as much as SO_REUSEPORT elsewhere. It returns
// go-reuseport's error as it is.
func SetReuse(network, address string, c syscall.RawConn) error {
	return reuse.Control(network, address, c)
}

// SetReusePort fails: Windows has no option that works beside SetExclusive's.
func SetReusePort(fd uintptr, on bool) error { return errors.ErrUnsupported }

// SetExclusive sets SO_EXCLUSIVEADDRUSE, without which any user's socket with
// SO_REUSEADDR could take the port over.
func SetExclusive(fd uintptr) error {
	const exclusive = ^windows.SO_REUSEADDR // as <winsock2.h> defines it
	return os.NewSyscallError("setsockopt", windows.SetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, exclusive, 1))
}

// V6Only reports whether an IPv6 socket serves IPv6 alone.
func V6Only(fd uintptr) (bool, error) {
	on, err := windows.GetsockoptInt(windows.Handle(fd), windows.IPPROTO_IPV6, windows.IPV6_V6ONLY)
	return on != 0, os.NewSyscallError("getsockopt", err)
}

// Local fails. Without it a dial finds out from the system that its 4-tuple is in use.
func Local(fd uintptr) (netip.AddrPort, error) { return netip.AddrPort{}, errors.ErrUnsupported }

// Peer fails, see Local.
func Peer(fd uintptr) (netip.AddrPort, error) { return netip.AddrPort{}, errors.ErrUnsupported }

// FINUnacked is what Unacked counts for a FIN that is not acknowledged: nothing.
const FINUnacked = 0

// Unacked fails: Windows does not tell what the peer has acknowledged.
func Unacked(fd uintptr) (int, error) { return 0, errors.ErrUnsupported }

// HasUnread fails: it is of use only together with Unacked.
func HasUnread(fd uintptr) (bool, error) { return false, errors.ErrUnsupported }

// fionbio is FIONBIO of <winsock2.h>.
const fionbio = 0x8004667e

// Discard reads and forgets what the peer has sent. It needs buf, which must not be empty.
// It makes the socket non-blocking for calls without an OVERLAPPED, of which package
// net makes none. It returns io.EOF for the peer's FIN, and 0 without an error if there
// is nothing.
func Discard(fd uintptr, buf []byte) (int, error) {
	on, size := uint32(1), uint32(0)
	err := windows.WSAIoctl(windows.Handle(fd), fionbio, (*byte)(unsafe.Pointer(&on)), 4, nil, 0, &size, nil, 0)
	if err != nil {
		return 0, os.NewSyscallError("wsaioctl", err)
	}
	to := windows.WSABuf{Len: uint32(len(buf)), Buf: &buf[0]}
	var n, flags uint32
	err = windows.WSARecv(windows.Handle(fd), &to, 1, &n, &flags, nil, nil)
	switch {
	case errors.Is(err, windows.WSAEWOULDBLOCK):
		return 0, nil
	case err == nil && n == 0:
		return 0, io.EOF
	}
	return int(n), os.NewSyscallError("wsarecv", err)
}

// Dup fails: Winsock does not take a duplicate made by DuplicateHandle for a socket. So
// nothing is kept after Conn.Close here, and the functions for that fail too.
func Dup(fd uintptr) (uintptr, error) { return 0, errors.ErrUnsupported }

// ShutdownWrite fails, see Dup.
func ShutdownWrite(fd uintptr) error { return errors.ErrUnsupported }

// SetLinger fails, see Dup.
func SetLinger(fd uintptr, reset bool) error { return errors.ErrUnsupported }

// Close fails, see Dup.
func Close(fd uintptr) error { return errors.ErrUnsupported }

// DescriptorLimit fails: Windows has none.
func DescriptorLimit() (uint64, error) { return 0, errors.ErrUnsupported }
