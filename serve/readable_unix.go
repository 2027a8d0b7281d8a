//go:build unix

package serve

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// waitReadable waits until the next Read of the connection would return at once. An
// error means that the connection was closed.
//
// The runtime's poller reports edges and forgets earlier ones when a wait begins, so
// the socket itself has to be checked first.
func waitReadable(raw syscall.RawConn) error { return raw.Read(hasInput) }

// hasInput reports whether data, a FIN or an error is pending. It asks with poll(2).
// A read with MSG_PEEK would consume a pending error, and the handler's Read would
// then return EOF instead of ECONNRESET (TestParkedReset).
func hasInput(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return n > 0 || (err != nil && err != unix.EINTR && err != unix.EAGAIN)
}
