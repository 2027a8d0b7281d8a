package lab_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/lab"
)

// TestUnreachableCostsOneDial: no route, or a neighbour that does not answer, is the
// answer of the dial: one socket, the errno, no second try from another port.
func TestUnreachableCostsOneDial(t *testing.T) {
	t.Parallel()
	n := lab.Start(t, one("unreached"))
	for addr, want := range map[string]string{
		"/ip4/192.0.0.99/tcp/1": "no route: 1 socket",     // beyond the host's only network
		"/ip4/10.1.0.99/tcp/1":  "no neighbour: 1 socket", // on it, and nobody is there
	} {
		got, err := lab.Call[string](t.Context(), n, "a", "dial", addr)
		if err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", addr, got, err, want)
		}
	}
}

// unreached is a host that listens and dials what cannot be reached.
func unreached(p *lab.Process) error {
	var sockets atomic.Int64
	tr := reuseport.Transport{Control: func(string, string, syscall.RawConn) error { sockets.Add(1); return nil }}
	if _, err := tr.ListenPort(4001); err != nil {
		return err
	}
	lab.Handle(p, "dial", func(ctx context.Context, addr string) (string, error) {
		raddr, err := ma.NewMultiaddr(addr)
		if err != nil {
			return "", err
		}
		sockets.Store(0)
		_, err = tr.DialContext(ctx, raddr)
		return describeUnreached(err, sockets.Load())
	})
	return errors.Join(p.Serve(), tr.Shutdown(p.Context()))
}

func describeUnreached(err error, sockets int64) (string, error) {
	switch {
	case errors.Is(err, syscall.ENETUNREACH):
		return fmt.Sprintf("no route: %d socket", sockets), nil
	case errors.Is(err, syscall.EHOSTUNREACH):
		return fmt.Sprintf("no neighbour: %d socket", sockets), nil
	}
	return "", err
}
