package reuseport

import (
	"os"

	"golang.org/x/sys/unix"
)

// discardFlag makes recv drop the bytes without copying them (tcp(7), since Linux 2.4).
const discardFlag = unix.MSG_TRUNC

// finUnacked is what unacked counts for a FIN that is not acknowledged.
const finUnacked = 1

// unacked returns how many bytes were written and not acknowledged (SIOCOUTQ). It
// counts a FIN of ours as one byte (TestFinCounts).
func unacked(fd uintptr) (int, error) {
	n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	return n, os.NewSyscallError("ioctl", err)
}

// hasUnread says whether the peer has sent something that nobody has read
// (SIOCINQ). An error counts as yes: the long way then finds out.
func hasUnread(fd uintptr) bool {
	n, err := unix.IoctlGetInt(int(fd), unix.SIOCINQ)
	return err != nil || n > 0
}

// finSent says whether a FIN of ours has left (SIOCOUTQNSD counts one that has not).
// It waits behind a window that is shut (TestCloseShutWindow).
func finSent(fd uintptr) bool {
	n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQNSD)
	return err == nil && n == 0
}

// hasReceived says whether the peer has sent data, read or not, or its FIN
// (tcpi_bytes_received, Linux 4.1): it is through with connect.
func hasReceived(fd uintptr) bool {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.Bytes_received > 0
}
