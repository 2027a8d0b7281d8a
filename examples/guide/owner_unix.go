//go:build unix

package guide

import (
	"errors"
	"net"
	"syscall"
)

// giveTo makes another user the owner of a listening socket, so that the process can dial from its
// port after it has become that user. Call it as root.
func giveTo(l *net.TCPListener, uid int) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var chownErr error
	err = raw.Control(func(fd uintptr) { chownErr = syscall.Fchown(int(fd), uid, -1) })
	return errors.Join(err, chownErr)
}
