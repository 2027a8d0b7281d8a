//go:build unix && !aix

package sockopt

import (
	"io"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// SetExclusive does nothing: a plain bind is exclusive here.
func SetExclusive(fd uintptr) error { return nil }

// SetLinger makes close reset the connection (SO_LINGER on, zero seconds), or deliver
// what was written (SO_LINGER off).
func SetLinger(fd uintptr, reset bool) error {
	l := unix.Linger{Onoff: int32(boolInt(reset))}
	return os.NewSyscallError("setsockopt", unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &l))
}

// V6Only reports whether an IPv6 socket serves IPv6 alone.
func V6Only(fd uintptr) (bool, error) {
	on, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
	return on != 0, os.NewSyscallError("getsockopt", err)
}

// Local returns the address that a socket is bound to.
func Local(fd uintptr) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(int(fd))
	return addrPort(sa), os.NewSyscallError("getsockname", err)
}

// Peer returns the address that a socket is connected to. It fails with ENOTCONN once the
// connection no longer exists.
func Peer(fd uintptr) (netip.AddrPort, error) {
	sa, err := unix.Getpeername(int(fd))
	return addrPort(sa), os.NewSyscallError("getpeername", err)
}

// addrPort returns the address in sa without its zone, an IPv4-mapped one as IPv4, or the zero
// value.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// Discard reads and forgets what the peer has sent. It needs buf, which must not be empty.
// It does not block. It returns io.EOF for the peer's FIN, and 0 without an error if there
// is nothing.
func Discard(fd uintptr, buf []byte) (n int, err error) { return recv(fd, buf, discardFlag) }

// recv is recvfrom(2) that does not block, with Discard's results.
func recv(fd uintptr, buf []byte, flags int) (int, error) {
	for {
		n, _, err := unix.Recvfrom(int(fd), buf, flags|unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return 0, nil
		case err != nil:
			return 0, os.NewSyscallError("recvfrom", err)
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// ShutdownWrite sends a FIN after what is in the send buffer. It fails with ENOTCONN if
// the connection no longer exists.
func ShutdownWrite(fd uintptr) error {
	return os.NewSyscallError("shutdown", unix.Shutdown(int(fd), unix.SHUT_WR))
}

// Dup returns a second descriptor of a socket, which is the caller's to close. It is
// not passed on to programs that the process starts.
func Dup(fd uintptr) (uintptr, error) {
	dup, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("fcntl", err)
	}
	return uintptr(dup), nil
}

// DescriptorLimit returns how many descriptors the process may have (RLIMIT_NOFILE).
func DescriptorLimit() (uint64, error) {
	var limit unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	return uint64(limit.Cur), os.NewSyscallError("getrlimit", err)
}

// Close closes a descriptor.
func Close(fd uintptr) error { return os.NewSyscallError("close", unix.Close(int(fd))) }

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
