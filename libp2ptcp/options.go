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

// DefaultConnectionTimeout bounds a dial unless WithConnectionTimeout does. It is the
// default of go-libp2p's TCP transport.
const DefaultConnectionTimeout = 5 * time.Second

// ErrBadOption says that an option of New was given nil where it needs a value.
var ErrBadOption = errors.New("libp2ptcp: invalid option")

// Option configures a Transport. Pass options to libp2p.Transport after New.
type Option func(*Transport) error

// WithConnectionTimeout bounds the connecting of one dial or punch. The context of
// the dial bounds the security handshake. Zero means DefaultConnectionTimeout; with a
// negative value only the context bounds connecting.
func WithConnectionTimeout(d time.Duration) Option {
	return func(t *Transport) error {
		t.connectTimeout = d
		if d == 0 {
			t.connectTimeout = DefaultConnectionTimeout
		}
		return nil
	}
}

// WithTransport makes the host use r. The caller may set all its fields and dial from
// its ports elsewhere too. r still belongs to the caller: closing the host closes its
// listeners and connections but leaves r open, and Shutdown of r waits for what is
// still being delivered. Nil is ErrBadOption.
//
// go-libp2p makes AutoNAT's dial-backs with a second instance of each transport, and
// both instances get r. A Transport that has not listened therefore dials from new
// ports where r.PortUse is PreferReuse: a dial-back from a port that the peer already
// knows would find its NAT open.
func WithTransport(r *reuseport.Transport) Option {
	return func(t *Transport) error {
		if r == nil {
			return fmt.Errorf("%w: WithTransport(nil)", ErrBadOption)
		}
		t.reuse, t.foreign = r, true
		return nil
	}
}

// WithPortUse lets choose decide which port each dial leaves from. A host needs it
// because its swarm does not pass on the values of a context: reuseport.WithPortUse
// reaches a dial only if Dial of the Transport is called directly, and then it takes
// precedence over choose. choose may be called from several goroutines at once. Nil
// is ErrBadOption.
func WithPortUse(choose func(ctx context.Context, raddr ma.Multiaddr, p peer.ID) reuseport.PortUse) Option {
	return func(t *Transport) error {
		if choose == nil {
			return fmt.Errorf("%w: WithPortUse(nil)", ErrBadOption)
		}
		t.choosePort = choose
		return nil
	}
}

// WithMetrics registers with reg the metrics of package promstats, for the
// reuseport.Transport in use, and those of connections; the README lists them. Several
// Transports may share reg, with each other and with promstats.Register: their counts
// add up, and each reuseport.Transport is counted once, with all that it has counted
// before. Close keeps the counts and removes the momentary values. Nil is ErrBadOption.
// If the names are taken by something else, New returns the error of reg.Register.
func WithMetrics(reg prometheus.Registerer) Option {
	return func(t *Transport) error {
		if reg == nil {
			return fmt.Errorf("%w: WithMetrics(nil)", ErrBadOption)
		}
		t.registerer = reg
		return nil
	}
}
