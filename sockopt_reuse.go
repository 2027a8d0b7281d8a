//go:build (unix && !solaris && !illumos && !aix) || windows

package reuseport

import (
	"syscall"

	reuse "github.com/libp2p/go-reuseport"
)

// setReuse lets a socket bind a port that others with the same options hold:
// SO_REUSEADDR and SO_REUSEPORT (with SO_REUSEPORT_LB on FreeBSD), SO_REUSEADDR
// alone on Windows, where it means as much.
func setReuse(network, address string, c syscall.RawConn) error {
	return reuse.Control(network, address, c)
}
