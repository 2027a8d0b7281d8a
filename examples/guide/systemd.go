package guide

import (
	"errors"
	"net"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/reusetransport/reuseport"
)

// wrapActivated wraps the TCP listeners that systemd has opened for the unit.
func wrapActivated(t *reuseport.Transport) ([]net.Listener, error) {
	given, err := activation.Listeners()
	if err != nil {
		return nil, err
	}
	var all []net.Listener
	for _, l := range given {
		wrapped, err := wrap(t, l)
		if err != nil {
			return nil, err // for a program that then ends: the listeners stay open
		}
		all = append(all, wrapped)
	}
	if len(all) == 0 {
		return nil, errors.New("systemd has passed on no TCP socket")
	}
	return all, nil
}
