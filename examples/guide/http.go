package guide

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/reusetransport/reuseport"
)

// newClient returns an HTTP client that leaves from the listening port where it can. A second
// connection to a server leaves from an ephemeral port.
func newClient(t *reuseport.Transport) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: t.DialNetContext}}
}

// newStrictClient returns a client whose every connection leaves from the listening port: one to a
// server at a time, and the next one once the 4-tuple is free.
func newStrictClient(t *reuseport.Transport) *http.Client {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		return t.DialNetContext(reuseport.WithPortUse(ctx, reuseport.AwaitReuse), network, address)
	}
	return &http.Client{
		Transport: &http.Transport{DialContext: dial, MaxConnsPerHost: 1},
		Timeout:   30 * time.Second, // AwaitReuse waits as long as it may
	}
}

// shutdown ends a server and the Transport that listens for it. The server finishes its requests
// first; then the Transport waits until the peers have acknowledged the last answers.
func shutdown(srv *http.Server, t *reuseport.Transport, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return errors.Join(srv.Shutdown(ctx), t.Shutdown(ctx))
}
