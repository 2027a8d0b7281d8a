package reuseport

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// reuseToDial is setReuse for sockets that dial, without the allocations of a
// function that has to bring back an error (TestDialAllocs).
func reuseToDial(_, _ string, c syscall.RawConn) error { return c.Control(reuseOptions) }

// reuseOptions sets what setReuse sets. Errors need not come back: the listener
// whose port is dialed from took the same options, and if this socket did not, bind
// says so before any SYN has left.
func reuseOptions(fd uintptr) {
	_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
}
