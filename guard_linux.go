package reuseport

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// guard keeps later joiners out of a listener of ours. It makes the socket the
// first of a reuseport group while it is not yet bound, with a program that gives
// every connection to the first of the group, which is ours (Linux 4.5). Then it
// takes SO_REUSEPORT back, so that bind and listen are exclusive; the group stays.
// A process of the same user that joins once allowReuse has set the option again
// gets nothing, unless it brings its own program or listens on a more specific
// address (TestJoinerGetsNothing).
func guard(c syscall.RawConn) error {
	var opt error
	err := c.Control(func(fd uintptr) {
		opt = errors.Join(reusePort(fd, 1), giveToFirst(fd), reusePort(fd, 0))
	})
	return errors.Join(err, opt)
}

// guardListening is guard for a socket that listens with SO_REUSEPORT already.
func guardListening(c syscall.RawConn) error {
	var opt error
	err := c.Control(func(fd uintptr) { opt = giveToFirst(fd) })
	return errors.Join(err, opt)
}

// giveToFirst attaches the program to the socket's group.
func giveToFirst(fd uintptr) error {
	ret := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0} // socket 0 of the group; unprivileged
	prog := unix.SockFprog{Len: 1, Filter: &ret}
	return os.NewSyscallError("setsockopt", unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &prog))
}

// reusePort sets SO_REUSEPORT.
func reusePort(fd uintptr, on int) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, on))
}

// keepBindFlat makes bind on our port cost the same however many connections live
// on it. A port whose first owner bound without SO_REUSEPORT remembers one address
// that is known to be free of conflicts and walks all owners for any other; two
// sources in turn would each walk thousands (TestBindStaysFlat). An address that
// covers all others is remembered for all, so a throwaway socket binds it and goes.
// It fails with EADDRINUSE if a stranger holds the port on some other address.
func keepBindFlat(port uint16) error {
	err := bindOnce(unix.AF_INET6, &unix.SockaddrInet6{Port: int(port)})
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) {
		return bindOnce(unix.AF_INET, &unix.SockaddrInet4{Port: int(port)})
	}
	return err
}

// bindOnce binds a socket with the options of port sharing, dual-stack if it is an
// IPv6 one, and closes it.
func bindOnce(family int, sa unix.Sockaddr) error {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd) // nothing was sent that a failed close could lose
	if family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	}
	err = errors.Join(err,
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	if err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	return os.NewSyscallError("bind", unix.Bind(fd, sa))
}
