//go:build unix && !linux && !solaris && !illumos && !aix

package reuseport

// toInherit sets SO_LINGER 0 on a new socket, which passes it on to all that it
// accepts. It does not fail on a socket that is new.
func toInherit(fd uintptr) { _ = setLinger(fd, true) }
