package reuseport

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// guard keeps later joiners out of a listener of ours that just got SO_REUSEPORT.
// It lets a throwaway socket join the port, leave a reuseport program behind that
// gives every connection to the first socket of the group, which is ours (Linux
// 4.5), and go. A process of the same user that joins later with SO_REUSEPORT gets
// nothing, unless it brings its own program or listens on a more specific address
// (TestJoinerGetsNothing).
//
// While the throwaway listens it drops all packets, so that no connection is queued
// on it and lost: a SYN of that moment is sent again after a second.
func guard(laddr listenAddr, control controlFunc) error {
	l, err := listen(laddr, control.then(setReuse).then(dropAll))
	if err != nil {
		return err
	}
	raw, err := l.SyscallConn()
	if err == nil {
		err = attachFilter(raw, unix.SO_ATTACH_REUSEPORT_CBPF)
	}
	return errors.Join(err, l.Close())
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

// dropAll makes a socket discard every packet.
func dropAll(network, address string, c syscall.RawConn) error {
	return attachFilter(c, unix.SO_ATTACH_FILTER)
}

// attachFilter attaches the classic BPF program "return 0". As a socket filter
// that keeps zero bytes of every packet; as a reuseport program it chooses the
// socket with index 0. Both are unprivileged.
func attachFilter(c syscall.RawConn, option int) error {
	ret := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	prog := unix.SockFprog{Len: 1, Filter: &ret}
	var opt error
	err := c.Control(func(fd uintptr) {
		opt = os.NewSyscallError("setsockopt", unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, option, &prog))
	})
	return errors.Join(err, opt)
}
