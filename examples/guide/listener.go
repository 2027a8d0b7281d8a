package guide

import (
	"fmt"
	"net"

	"github.com/reusetransport/reuseport"
)

// wrap makes t dial from the port of a listener that you made, and returns the listener to accept
// from. If it succeeds, t owns l; if not, l is still yours.
func wrap(t *reuseport.Transport, l net.Listener) (net.Listener, error) {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("%T is no TCP listener", l)
	}
	wrapped, err := t.WrapListener(tcp)
	if err != nil {
		return nil, err
	}
	return wrapped.(*reuseport.Listener).NetListener(), nil
}
