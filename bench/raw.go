//go:build linux

package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// rawHost is the floor: the fewest system calls that dial from a listening port, on
// blocking sockets, without a poller or keep-alive, and without reading addresses
// back. It dials from its first listener, or from an ephemeral port if it has none or
// the 4-tuple is taken.
type rawHost struct {
	laddr netip.AddrPort // invalid without a listener
}

func openRaw() Host { return new(rawHost) }

// rawNewHost is rawHost without reuse: dials leave from ephemeral ports.
type rawNewHost struct{}

func openRawNew() Host { return rawNewHost{} }

func (rawNewHost) Listen(a *Addr) (Listener, error) { return new(rawHost).Listen(a) }

func (rawNewHost) Dial(ctx context.Context, a *Addr) (Conn, error) { return new(rawHost).Dial(ctx, a) }

// rawConn is a connected descriptor.
type rawConn int

func (h *rawHost) Listen(a *Addr) (Listener, error) {
	fd, err := rawSocket(!h.laddr.IsValid())
	if err != nil {
		return nil, err
	}
	l := rawListener(fd)
	if err := unix.Bind(fd, sockaddr(a.AddrPort)); err != nil {
		return nil, closeAfter(l, "bind", err)
	}
	if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
		return nil, closeAfter(l, "listen", err)
	}
	if !h.laddr.IsValid() {
		h.laddr = localAddrPort(l)
	}
	return l, nil
}

func (h *rawHost) Dial(_ context.Context, a *Addr) (Conn, error) {
	c, err := rawDial(h.laddr, a.AddrPort)
	if h.laddr.IsValid() && errors.Is(err, unix.EADDRNOTAVAIL) {
		return rawDial(netip.AddrPort{}, a.AddrPort)
	}
	return c, err
}

// rawDial dials from laddr, or from an ephemeral port if laddr is invalid.
func rawDial(laddr, raddr netip.AddrPort) (Conn, error) {
	fd, err := rawSocket(laddr.IsValid())
	if err != nil {
		return nil, err
	}
	c := rawConn(fd)
	if laddr.IsValid() {
		if err := unix.Bind(fd, sockaddr(laddr)); err != nil {
			return nil, closeAfter(c, "bind", err)
		}
	}
	if err := unix.Connect(fd, sockaddr(raddr)); err != nil {
		return nil, closeAfter(c, "connect", err)
	}
	return c, nil
}

// rawSocket makes a TCP socket, with the options for port reuse if asked for.
func rawSocket(reuse bool) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil || !reuse {
		return fd, os.NewSyscallError("socket", err)
	}
	for _, opt := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, 1); err != nil {
			return 0, closeAfter(rawConn(fd), "setsockopt", err)
		}
	}
	return fd, nil
}

// closeAfter closes c because a system call failed, and names the call.
func closeAfter(c Conn, call string, err error) error {
	_ = c.Close() // err is the cause
	return os.NewSyscallError(call, err)
}

// SetLinger sets SO_LINGER as net.TCPConn does.
func (c rawConn) SetLinger(sec int) error {
	l := unix.Linger{Onoff: 1, Linger: int32(sec)}
	return os.NewSyscallError("setsockopt", unix.SetsockoptLinger(int(c), unix.SOL_SOCKET, unix.SO_LINGER, &l))
}

// CloseWrite sends a FIN.
func (c rawConn) CloseWrite() error {
	return os.NewSyscallError("shutdown", unix.Shutdown(int(c), unix.SHUT_WR))
}

// Close closes the descriptor.
func (c rawConn) Close() error { return os.NewSyscallError("close", unix.Close(int(c))) }

// rawListener is a listening descriptor.
type rawListener int

// Accept waits in the system call.
func (l rawListener) Accept() (Conn, error) {
	fd, _, err := unix.Accept4(int(l), unix.SOCK_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("accept4", err)
	}
	return rawConn(fd), nil
}

// Close wakes Accept, which close(2) alone does not, and closes.
func (l rawListener) Close() error {
	_ = unix.Shutdown(int(l), unix.SHUT_RDWR) // fails if it does not listen yet; Accept is not running then
	return rawConn(l).Close()
}

// Addr returns the bound address.
func (l rawListener) Addr() net.Addr {
	sa, err := unix.Getsockname(int(l))
	if err != nil {
		return nil // never: our listening sockets are bound
	}
	in := sa.(*unix.SockaddrInet4)
	return &net.TCPAddr{IP: in.Addr[:], Port: in.Port}
}

// sockaddr is an IPv4 address for a system call.
func sockaddr(ap netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Addr: ap.Addr().Unmap().As4(), Port: int(ap.Port())}
}
