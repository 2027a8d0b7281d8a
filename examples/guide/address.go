package guide

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"

	"github.com/reusetransport/reuseport"
)

// tellAddress is the reflector: it tells each client the address that it sees.
func tellAddress(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		_, _ = fmt.Fprint(c, c.RemoteAddr()) // a client that is gone does not care
		_ = c.Close()
	}
}

// publicAddress asks a reflector. Only a dial from the listening port tells the address of that
// port, so it is required.
func publicAddress(ctx context.Context, t *reuseport.Transport, reflector string) (netip.AddrPort, error) {
	c, err := t.DialNetContext(reuseport.WithPortUse(ctx, reuseport.AwaitReuse), "tcp", reflector)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer c.Close()
	text, err := io.ReadAll(io.LimitReader(c, 64))
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.ParseAddrPort(string(text))
}
