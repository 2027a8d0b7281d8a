//go:build !plan9

package reuseport_test

import (
	"context"
	"testing"

	"github.com/reusetransport/reuseport"
)

// TestEndedContextSendsNothing: a dial whose context has ended reaches nobody, whichever port it
// would leave from.
func TestEndedContextSendsNothing(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for _, use := range []reuseport.PortUse{reuseport.PreferReuse, reuseport.NewPort, reuseport.RequireReuse} {
		var us, them reuseport.Transport
		listen(t, &us, "/ip4/127.0.0.1/tcp/0")
		l := listen(t, &them, "/ip4/127.0.0.1/tcp/0")
		accepted := acceptAll(l)
		for range 100 {
			_, err := us.DialContext(reuseport.WithPortUse(ended, use), l.Multiaddr())
			wantErr(t, err, context.Canceled)
		}
		c := dial(t, &us, l.Multiaddr())
		if first := <-accepted; first.RemoteAddr().String() != c.LocalAddr().String() {
			t.Errorf("%v: a connection from %v arrived before that of the only dial", use, first.RemoteAddr())
		}
	}
}
