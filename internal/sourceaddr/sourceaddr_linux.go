package sourceaddr

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport/internal/netaddr"
	"github.com/reusetransport/reuseport/internal/sockopt"
)

// byTCP asks with a TCP socket whose SYN is put off until the first write
// (TCP_FASTOPEN_CONNECT, Linux 4.11), which never comes. Its connect looks up the route
// and chooses the source, and nothing is sent. TCP_FASTOPEN_NO_COOKIE (4.15) makes that
// hold for peers without a cookie (TestListenerUnderRules in lab). It fails where the kernel
// refuses the options (net.ipv4.tcp_fastopen without its bit 1) or the address has a zone;
// Source then asks by UDP.
//
// If fast open has lately met a firewall that drops it, a kernel with
// net.ipv4.tcp_fastopen_blackhole_timeout_sec set (zero since Linux 5.14) does not put the
// SYN off. Then one SYN leaves, and shutdown ends the connection.
func (a *Asker) byTCP(raddr netip.AddrPort, control func(string, string, syscall.RawConn) error) (netip.Addr, error) {
	if raddr.Addr().Zone() != "" {
		return netip.Addr{}, errors.ErrUnsupported
	}
	s, err := a.take(raddr, control)
	if err != nil {
		return netip.Addr{}, err
	}
	source, err := s.ask(raddr)
	if err != nil || control != nil {
		s.close()
		return source, err
	}
	a.keep(s, raddr)
	return source, nil
}

// take returns a socket for the caller alone: the one that is kept, or a new one. With a
// control function it is always new, since what that does to a socket may depend on raddr
// and cannot be undone.
func (a *Asker) take(raddr netip.AddrPort, control func(string, string, syscall.RawConn) error) (*socket, error) {
	if control == nil {
		if s := a.kept.of(raddr.Addr()).Swap(nil); s != nil {
			return s, nil
		}
	}
	s, err := newSocket(raddr)
	if err != nil || control == nil {
		return s, err
	}
	if err := s.apply(control, raddr); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// keep keeps a socket for the next question. It closes the socket if another one is there
// already, or if a was closed meanwhile.
func (a *Asker) keep(s *socket, raddr netip.AddrPort) {
	if !a.kept.of(raddr.Addr()).CompareAndSwap(nil, s) {
		s.close()
	}
	if a.closed.Load() {
		a.kept.close()
	}
}

// kept has the sockets that wait for the next question. They are kept because making and
// closing a socket takes longer than asking.
type kept struct{ v4, v6 atomic.Pointer[socket] }

// of returns the place of addr's family.
func (k *kept) of(addr netip.Addr) *atomic.Pointer[socket] {
	if addr.Is4() {
		return &k.v4
	}
	return &k.v6
}

func (k *kept) close() {
	for _, place := range []*atomic.Pointer[socket]{&k.v4, &k.v6} {
		if s := place.Swap(nil); s != nil {
			s.close()
		}
	}
}

// A socket asks for sources, any number of times.
type socket struct {
	file *os.File // closes fd if the Asker is never closed
	fd   int
}

// newSocket makes a socket of raddr's family. It becomes non-blocking only after
// os.NewFile, which registers a non-blocking descriptor with the runtime's poller. Nobody
// waits for events of this one.
func newSocket(raddr netip.AddrPort) (*socket, error) {
	family, _ := sockaddr(raddr)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	s := &socket{file: os.NewFile(uintptr(fd), "source"), fd: fd}
	err = errors.Join(
		unix.SetNonblock(fd, true),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_NO_COOKIE, 1))
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// apply calls the caller's control function.
func (s *socket) apply(control func(string, string, syscall.RawConn) error, raddr netip.AddrPort) error {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return err
	}
	return control(netaddr.Network(raddr.Addr()), raddr.String(), raw)
}

// ask returns the source towards raddr and makes the socket ready for the next question:
// shutdown of a socket that is still connecting takes the connect back.
func (s *socket) ask(raddr netip.AddrPort) (netip.Addr, error) {
	defer runtime.KeepAlive(s)
	_, sa := sockaddr(raddr)
	if err := unix.Connect(s.fd, sa); err != nil && err != unix.EINPROGRESS {
		return netip.Addr{}, err
	}
	source, err := sockopt.Local(uintptr(s.fd))
	if err != nil {
		return netip.Addr{}, err
	}
	return source.Addr(), unix.Shutdown(s.fd, unix.SHUT_RDWR)
}

// close closes the socket. A failure loses nothing, since nothing was sent.
func (s *socket) close() { _ = s.file.Close() }

func sockaddr(a netip.AddrPort) (family int, sa unix.Sockaddr) {
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}
