//go:build unix

package serve

import (
	"errors"
	"net"
)

// handle returns a listener with a descriptor of its own for the socket of l, or
// l if it is no *net.TCPListener: what wraps one may do more in its Accept.
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
