package reuseport

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

// setExclusive sets SO_EXCLUSIVEADDRUSE, without which any user's socket with
// SO_REUSEADDR could take the port over.
func setExclusive(c syscall.RawConn) error {
	const exclusive = ^windows.SO_REUSEADDR
	var opt error
	err := c.Control(func(fd uintptr) {
		opt = os.NewSyscallError("setsockopt", windows.SetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, exclusive, 1))
	})
	return errors.Join(err, opt)
}

// allowReuse fails: on Windows an exclusive port cannot be dialed from.
func allowReuse(c syscall.RawConn) error { return errors.ErrUnsupported }

// isV6Only reads IPV6_V6ONLY of an IPv6 socket.
func isV6Only(c syscall.RawConn) (bool, error) {
	var on int
	var opt error
	err := c.Control(func(fd uintptr) {
		on, opt = windows.GetsockoptInt(windows.Handle(fd), windows.IPPROTO_IPV6, windows.IPV6_V6ONLY)
	})
	return on != 0, errors.Join(err, os.NewSyscallError("getsockopt", opt))
}

// dupSocket fails: package net cannot make a second listener of a Windows socket.
func dupSocket(c syscall.RawConn) (*os.File, error) { return nil, errors.ErrUnsupported }

// inheritsLinger: accepted connections get SO_LINGER one by one.
const inheritsLinger = false

// toInherit does nothing.
func toInherit(uintptr) {}
