package guide

import (
	"net"

	"github.com/cloudflare/tableflip"

	"github.com/reusetransport/reuseport"
)

// listenUpgradable listens on a port that passes from each version of the program to the next.
// tableflip keeps a descriptor of its own for the next one.
func listenUpgradable(up *tableflip.Upgrader, t *reuseport.Transport, address string) (net.Listener, error) {
	l, err := up.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	return wrap(t, l)
}
