package reuseport

import (
	"os"

	"golang.org/x/sys/unix"
)

// discardFlag: macOS has no way to drop bytes without copying them.
const discardFlag = 0

// finUnacked is what unacked counts for a FIN that is not acknowledged.
const finUnacked = 1

// unacked returns how many bytes were written and not acknowledged, and one for a
// FIN: TCP_CONNECTION_INFO, since macOS 10.11. Built, not run.
func unacked(fd uintptr) (int, error) {
	info, err := unix.GetsockoptTCPConnectionInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_CONNECTION_INFO)
	if err != nil {
		return 0, os.NewSyscallError("getsockopt", err)
	}
	n := int(info.Snd_sbbytes)
	switch info.State {
	case tcpsFinWait1, tcpsClosing, tcpsLastAck:
		n += finUnacked
	}
	return n, nil
}

// States of <netinet/tcp_fsm.h> in which a FIN of ours is not acknowledged.
const (
	tcpsFinWait1 = 6
	tcpsClosing  = 7
	tcpsLastAck  = 8
)
