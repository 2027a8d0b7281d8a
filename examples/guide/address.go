package guide

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/reusetransport/reuseport"
)

// tellAddress is the reflector: it tells each client the address that it sees.
func tellAddress(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		_, _ = fmt.Fprint(c, c.RemoteAddr()) // the client may have left
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
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) }) // ends the read
	defer stop()
	text, err := io.ReadAll(io.LimitReader(c, 64))
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.ParseAddrPort(string(text))
}
