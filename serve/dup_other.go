//go:build !unix

package serve

import "net"

// handle returns l itself. Windows ties a socket to the completion port of one
// handle, and the other systems here cannot dup a socket.
func handle(l net.Listener) (net.Listener, error) { return l, nil }
