//go:build !linux

package reuseport

import "syscall"

// reuseToDial is setReuse for sockets that dial.
func reuseToDial(network, address string, c syscall.RawConn) error {
	return setReuse(network, address, c)
}
