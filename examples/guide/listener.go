package guide

import (
	"net"

	"github.com/reusetransport/reuseport"
)

// wrap makes t dial from the port of a listener that you made, and returns the listener to accept
// from. It owns l from then on.
func wrap(t *reuseport.Transport, l net.Listener) (net.Listener, error) {
	wrapped, err := t.WrapListener(l.(*net.TCPListener))
	if err != nil {
		return nil, err
	}
	return wrapped.(*reuseport.Listener).NetListener(), nil
}
