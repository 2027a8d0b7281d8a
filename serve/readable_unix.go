//go:build unix

package serve

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// waitReadable waits until a Read of the connection would not wait. The error
// says that the connection was closed.
//
// The runtime's poller reports edges, and forgets the last one before it asks,
// so the socket has to be looked at first.
func waitReadable(raw syscall.RawConn) error { return raw.Read(hasInput) }

// hasInput is true for data, a FIN and an error. It asks with poll(2): a look with
// MSG_PEEK would take a pending error away from the handler's Read, which then
// would see EOF for a reset (TestParkedReset).
func hasInput(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return n > 0 || (err != nil && err != unix.EINTR && err != unix.EAGAIN)
}
