package reuseport

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/reusetransport/reuseport/internal/netaddr"
)

// probe remembers what Available found. It is not a sync.Once, because a try that
// could not tell is made again.
var probe struct {
	mu        sync.Mutex
	known, ok bool
}

// Available reports whether this system can dial from a listening port. The first call
// tries it: it listens twice on loopback and dials from one to the other. The result is
// kept if the dial connected, or if the system has no such option. A try that fails in any
// other way tells nothing about the system: no descriptor is free, loopback is down, the dial
// takes more than 1 s. Then Available is false, and the next call tries again. Where it is
// false, Listen and Dial work without reuse.
func Available() bool {
	probe.mu.Lock()
	defer probe.mu.Unlock()
	if probe.known {
		return probe.ok
	}
	err := probeLoopback(netaddr.Loopback(netip.IPv4Unspecified()))
	if err != nil && !errors.Is(err, ErrNoReuse) {
		err = probeLoopback(netip.IPv6Loopback()) // a host without IPv4
	}
	probe.ok = err == nil
	probe.known = err == nil || errors.Is(err, ErrNoReuse) || errors.Is(err, errors.ErrUnsupported)
	return probe.ok
}

// probeLoopback dials from one listener on addr to another.
func probeLoopback(addr netip.Addr) (err error) {
	t := Transport{Shared: true} // what Windows needs, and enough elsewhere
	defer func() { err = errors.Join(err, t.Shutdown(context.Background())) }()
	from := listenAddr{AddrPort: netip.AddrPortFrom(addr, 0)}
	if _, err := t.open(from); err != nil {
		return err
	}
	to, err := listen(from, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := t.dial(ctx, netaddr.From(to.Addr()), RequireReuse)
	if err != nil {
		return err
	}
	return c.Abort()
}
