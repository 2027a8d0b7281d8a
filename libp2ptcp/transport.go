package libp2ptcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	logging "github.com/libp2p/go-libp2p/gologshim"
	"github.com/libp2p/go-libp2p/p2p/transport/tcpreuse"
	ma "github.com/multiformats/go-multiaddr"
	mafmt "github.com/multiformats/go-multiaddr-fmt"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/reusetransport/reuseport"
)

// closeTimeout bounds how long Close waits for delivery. A peer that takes nothing is
// cut earlier, after reuseport.Transport.FlushTimeout.
const closeTimeout = 30 * time.Second

// ErrSharedListener says that the host has libp2p.ShareTCPListener. go-libp2p shares
// a listener of its own between TCP and WebSocket, and no other can replace it.
var ErrSharedListener = errors.New("libp2ptcp: libp2p.ShareTCPListener is not supported, give WebSocket a port of its own")

// Transport is a TCP transport of a go-libp2p host. It is made by New and safe for
// concurrent use.
type Transport struct {
	upgrader transport.Upgrader
	rcmgr    network.ResourceManager
	reuse    *reuseport.Transport
	foreign  bool // reuse belongs to the caller

	connectTimeout time.Duration // negative = none
	choosePort     func(context.Context, ma.Multiaddr, peer.ID) reuseport.PortUse
	off            bool // LIBP2P_TCP_REUSEPORT=false

	listened atomic.Bool
	arrivals arrivals

	registerer prometheus.Registerer
	metrics    *metrics // nil without a registerer
}

var (
	_ transport.Transport   = (*Transport)(nil)
	_ transport.DialUpdater = (*Transport)(nil)
	_ io.Closer             = (*Transport)(nil)
	_ fmt.Stringer          = (*Transport)(nil)
)

// New is the constructor for libp2p.Transport; go-libp2p calls it with the parts of
// the host. A direct caller may pass nil for rcmgr (no limits) and shared.
//
// New returns ErrSharedListener if shared is not nil. If the environment had
// LIBP2P_TCP_REUSEPORT set to false, f or 0 when the process started, every dial
// leaves from an ephemeral port, whatever options and contexts say.
func New(upgrader transport.Upgrader, rcmgr network.ResourceManager, shared *tcpreuse.ConnMgr, opts ...Option) (*Transport, error) {
	if shared != nil {
		return nil, ErrSharedListener
	}
	if rcmgr == nil {
		rcmgr = &network.NullResourceManager{}
	}
	t := &Transport{
		upgrader:       upgrader,
		rcmgr:          rcmgr,
		connectTimeout: DefaultConnectionTimeout,
		off:            !tcpreuse.EnvReuseportVal,
	}
	for _, opt := range opts {
		if err := opt(t); err != nil {
			return nil, err
		}
	}
	if t.reuse == nil {
		t.reuse = &reuseport.Transport{Logger: logging.Logger("reuseport")}
	}
	if err := t.register(); err != nil {
		return nil, err
	}
	return t, nil
}

// register adds t to the metrics of its registerer, if it has one.
func (t *Transport) register() (err error) {
	if t.registerer != nil {
		t.metrics, err = registerWith(t.registerer, t.reuse)
	}
	return err
}

// CanDial reports whether addr is an IP address with a TCP port and nothing else.
// Names are excluded because the host resolves them first.
func (t *Transport) CanDial(addr ma.Multiaddr) bool {
	zoned := mafmt.And(mafmt.Base(ma.P_IP6ZONE), mafmt.Base(ma.P_IP6))
	return mafmt.And(mafmt.Or(mafmt.IP, zoned), mafmt.Base(ma.P_TCP)).Matches(addr)
}

// Protocols returns TCP.
func (t *Transport) Protocols() []int { return []int{ma.P_TCP} }

// Proxy returns false: the connections are the host's own.
func (t *Transport) Proxy() bool { return false }

// String returns "TCP", as go-libp2p's TCP transport does.
func (t *Transport) String() string { return "TCP" }

// Close ends t; go-libp2p calls it after it has closed the host's listeners and
// connections. Unless the reuseport.Transport came with WithTransport, Close waits up
// to 30 s until what they had written is delivered, and later dials and listens fail
// with net.ErrClosed.
func (t *Transport) Close() error {
	if t.metrics != nil {
		defer t.metrics.leave()
	}
	if t.foreign {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return t.reuse.Shutdown(ctx)
}
