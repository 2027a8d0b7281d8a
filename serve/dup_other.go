//go:build !unix

package serve

import "net"

// handle returns l: Windows ties a socket to the completion port of one handle,
// and the others have no dup of sockets.
func handle(l net.Listener) (net.Listener, error) { return l, nil }
