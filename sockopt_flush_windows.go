package reuseport

import (
	"errors"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Built, not run.

// canFlush: Close can wait for the peer's end.
const canFlush = true

// hasUnread is not asked: Windows does not tell what is unacknowledged, so that
// every close goes the long way.
func hasUnread(fd uintptr) bool { return true }

func hasReceived(fd uintptr) bool { return false }

// finSent is asked only where unacked tells something.
func finSent(fd uintptr) bool { return true }

// fionbio is FIONBIO of <winsock2.h>.
const fionbio = 0x8004667e

// discard reads what the peer has sent into buf, to be forgotten. It makes the
// socket non-blocking for calls without an OVERLAPPED, of which package net makes
// none. The peer's FIN is io.EOF; n is 0 without an error if there is nothing.
func discard(fd uintptr, buf []byte) (int, error) {
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

// shutdownWrite sends a FIN after what is in the send buffer. It fails with
// WSAENOTCONN where the connection exists no more.
func shutdownWrite(fd uintptr) error {
	return os.NewSyscallError("shutdown", windows.Shutdown(windows.Handle(fd), windows.SHUT_WR))
}

// isGone says whether an error of shutdownWrite means that the peer has reset.
func isGone(err error) bool {
	return errors.Is(err, windows.WSAENOTCONN) || errors.Is(err, windows.WSAECONNRESET)
}

// setLinger makes close reset (true) or deliver (false).
func setLinger(fd uintptr, reset bool) error {
	var l windows.Linger
	if reset {
		l.Onoff = 1
	}
	return os.NewSyscallError("setsockopt", windows.SetsockoptLinger(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_LINGER, &l))
}

// dupSocketFD fails: a duplicate made by DuplicateHandle is no socket to Winsock.
func dupSocketFD(fd uintptr) (uintptr, error) { return 0, errors.ErrUnsupported }

func closeSocketFD(fd uintptr) error {
	return os.NewSyscallError("closesocket", windows.Closesocket(windows.Handle(fd)))
}
