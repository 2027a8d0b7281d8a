//go:build unix

package serve

import (
	"errors"
	"net"
)

// handle returns a listener with its own descriptor for the socket of l. If l is not
// a *net.TCPListener it returns l itself: the Accept of a wrapper may do more.
func handle(l net.Listener) (net.Listener, error) {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return l, nil
	}
	f, err := tcp.File()
	if err != nil {
		return nil, err
	}
	h, err := net.FileListener(f)
	if errClose := f.Close(); err == nil && errClose != nil {
		return nil, errors.Join(errClose, h.Close())
	}
	return h, err
}
