package reuseport

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"

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
// does not put the SYN off; then one leaves, and the connection is ended.
func (t *Transport) sourceByTCP(raddr netip.AddrPort) (netip.Addr, error) {
	if raddr.Addr().Zone() != "" {
		return netip.Addr{}, errors.ErrUnsupported
	}
	a, err := t.takeAsker(raddr)
	if err != nil {
		return netip.Addr{}, err
	}
	source, err := a.ask(raddr)
	if err != nil || t.Control != nil {
		a.close()
		return source, err
	}
	t.keepAsker(a, raddr)
	return source, nil
}

// An asker is a socket that asks for sources. To make and close one takes longer than
// to ask, so that a Transport keeps one for each family. What it answers holds for the
// user and the network namespace of the process at the time it was made.
type asker struct {
	file *os.File // closes fd if the Transport goes without Shutdown
	fd   int
}

// askers are those that a Transport keeps while nobody asks.
type askers struct{ v4, v6 atomic.Pointer[asker] }

// of returns the place of the one for addr's family.
func (k *askers) of(addr netip.Addr) *atomic.Pointer[asker] {
	if addr.Is4() {
		return &k.v4
	}
	return &k.v6
}

// close closes those that are kept.
func (k *askers) close() {
	for _, place := range []*atomic.Pointer[asker]{&k.v4, &k.v6} {
		if a := place.Swap(nil); a != nil {
			a.close()
		}
	}
}

// takeAsker returns an asker for the caller alone: the one that is kept, or a new
// one. With Control it is always new: what Control does to a socket may depend on
// raddr, and nobody can undo it.
func (t *Transport) takeAsker(raddr netip.AddrPort) (*asker, error) {
	if t.Control == nil {
		if a := t.askers.of(raddr.Addr()).Swap(nil); a != nil {
			return a, nil
		}
	}
	a, err := newAsker(raddr)
	if err != nil || t.Control == nil {
		return a, err
	}
	if err := a.apply(t.Control, raddr); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

// apply calls the user's control function.
func (a *asker) apply(control controlFunc, raddr netip.AddrPort) error {
	raw, err := a.file.SyscallConn()
	if err != nil {
		return err
	}
	return control(network(raddr.Addr()), raddr.String(), raw)
}

// keepAsker keeps an asker for the next dial. If another one is there already, or t
// was shut down meanwhile, it is closed.
func (t *Transport) keepAsker(a *asker, raddr netip.AddrPort) {
	if !t.askers.of(raddr.Addr()).CompareAndSwap(nil, a) {
		a.close()
	}
	if t.registry.load().shut {
		t.askers.close()
	}
}

// newAsker makes an asker for raddr's family. It is made non-blocking after os.NewFile,
// which would else have it watched for events that nobody waits for.
func newAsker(raddr netip.AddrPort) (*asker, error) {
	family, _ := sockaddr(raddr)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	a := &asker{file: os.NewFile(uintptr(fd), "source"), fd: fd}
	err = errors.Join(
		unix.SetNonblock(fd, true),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_NO_COOKIE, 1))
	if err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

// ask returns the source towards raddr and makes the socket ready for the next
// question: shutdown of a socket that is still connecting takes connect back.
func (a *asker) ask(raddr netip.AddrPort) (netip.Addr, error) {
	defer runtime.KeepAlive(a)
	_, sa := sockaddr(raddr)
	if err := unix.Connect(a.fd, sa); err != nil && err != unix.EINPROGRESS {
		return netip.Addr{}, err
	}
	source, err := boundAddr(a.fd)
	if err != nil {
		return netip.Addr{}, err
	}
	return source, unix.Shutdown(a.fd, unix.SHUT_RDWR)
}

// close closes the socket. Nothing was sent that a failure could lose.
func (a *asker) close() { _ = a.file.Close() }

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
