//go:build unix && !aix && !linux

package reuseport

import "golang.org/x/sys/unix"

// hasUnread says whether the peer has sent something that nobody has read.
func hasUnread(fd uintptr) bool {
	var one [1]byte
	n, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return err == nil && n > 0
}

// hasReceived says whether the peer has sent data. These systems do not tell in one
// way; no is the answer that costs time only.
func hasReceived(uintptr) bool { return false }

// finSent says whether a FIN of ours has left. These systems do not tell.
func finSent(uintptr) bool { return true }
