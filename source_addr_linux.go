package reuseport

import (
	"errors"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// sourceByTCP asks with a TCP socket whose SYN is put off until the first write
// (TCP_FASTOPEN_CONNECT, Linux 4.11), which never comes: connect has looked up the
// route and chosen the source, and nothing is sent. TCP_FASTOPEN_NO_COOKIE (4.15)
// makes that hold for peers without a cookie. Where the options are refused
// (net.ipv4.tcp_fastopen without its bit 1) or the address has a zone, the caller
// asks by UDP. TestListenerUnderRules in lab pins it.
//
// A host whose own use of fast open has just met a firewall that drops it, and
// which has net.ipv4.tcp_fastopen_blackhole_timeout_sec set (zero since Linux 5.14),
// does not put the SYN off; then one leaves, and close ends the connection.
func sourceByTCP(raddr netip.AddrPort, control controlFunc) (netip.Addr, error) {
	if raddr.Addr().Zone() != "" {
		return netip.Addr{}, errors.ErrUnsupported
	}
	family, sa := sockaddr(raddr)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.Addr{}, err
	}
	if control != nil {
		f := os.NewFile(uintptr(fd), "source")
		defer f.Close() // nothing was sent that a failed close could lose
		err = applyControl(f, raddr, control)
	} else {
		defer unix.Close(fd)
	}
	err = errors.Join(err,
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_NO_COOKIE, 1))
	if err != nil {
		return netip.Addr{}, err
	}
	if err := unix.Connect(fd, sa); err != nil && err != unix.EINPROGRESS {
		return netip.Addr{}, err
	}
	return boundAddr(fd)
}

func applyControl(f *os.File, raddr netip.AddrPort, control controlFunc) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return control(network(raddr.Addr()), raddr.String(), raw)
}

func sockaddr(a netip.AddrPort) (family int, sa unix.Sockaddr) {
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// boundAddr is the address that a socket is bound to.
func boundAddr(fd int) (netip.Addr, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.Addr{}, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(sa.Addr), nil
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(sa.Addr).Unmap(), nil
	}
	return netip.Addr{}, errors.ErrUnsupported
}
