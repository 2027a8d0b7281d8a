package libp2ptcp

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/reusetransport/reuseport"
)

// DefaultConnectionTimeout bounds a dial where WithConnectionTimeout does not. It
// is what go-libp2p's TCP transport takes.
const DefaultConnectionTimeout = 5 * time.Second

// ErrBadOption says that an option of New was given nil where it needs a value.
var ErrBadOption = errors.New("libp2ptcp: invalid option")

// Option sets up a Transport. libp2p.Transport takes options behind New.
type Option func(*Transport) error

// WithConnectionTimeout bounds the connecting of one dial, a punch included; the
// security handshake is bounded by the context of the dial. Zero is
// DefaultConnectionTimeout, negative leaves the bound to the context alone.
func WithConnectionTimeout(d time.Duration) Option {
	return func(t *Transport) error {
		t.connectTimeout = d
		if d == 0 {
			t.connectTimeout = DefaultConnectionTimeout
		}
		return nil
	}
}

// WithTransport makes the host use r, all of whose fields are the caller's to set,
// and whose ports others may dial from too. r stays the caller's: closing the host
// closes its listeners and connections and leaves r open; Shutdown of r waits for
// what is still being delivered. Nil is ErrBadOption.
//
// go-libp2p makes AutoNAT's dial-backs with a second instance of each transport,
// and r is in both. A Transport that has not listened therefore dials from new
// ports where r.PortUse is PreferReuse: a dial-back from a port that the peer
// knows already would find its NAT open.
func WithTransport(r *reuseport.Transport) Option {
	return func(t *Transport) error {
		if r == nil {
			return fmt.Errorf("%w: WithTransport(nil)", ErrBadOption)
		}
		t.reuse, t.foreign = r, true
		return nil
	}
}

// WithPortUse lets choose decide from which port each dial leaves. Dials of a host
// need it because its swarm does not hand the values of a context on, so that
// reuseport.WithPortUse reaches a dial only where Dial of the Transport is called
// directly; there the context wins over choose. choose may be called from several
// goroutines at once. Nil is ErrBadOption.
func WithPortUse(choose func(ctx context.Context, raddr ma.Multiaddr, p peer.ID) reuseport.PortUse) Option {
	return func(t *Transport) error {
		if choose == nil {
			return fmt.Errorf("%w: WithPortUse(nil)", ErrBadOption)
		}
		t.choosePort = choose
		return nil
	}
}

// WithMetrics registers the metrics of the Transport with reg; the README lists
// them. Several Transports may share reg: their counts add up, each
// reuseport.Transport counted once. Close takes the open connections out and
// leaves the counts. Nil is ErrBadOption; New returns what reg.Register returned
// if the names are taken by something else.
func WithMetrics(reg prometheus.Registerer) Option {
	return func(t *Transport) error {
		if reg == nil {
			return fmt.Errorf("%w: WithMetrics(nil)", ErrBadOption)
		}
		t.registerer = reg
		return nil
	}
}
