package libp2ptcp

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/reusetransport/reuseport"
)

// Dial is DialWithUpdates without updates.
func (t *Transport) Dial(ctx context.Context, raddr ma.Multiaddr, p peer.ID) (transport.CapableConn, error) {
	return t.DialWithUpdates(ctx, raddr, p, nil)
}

// DialWithUpdates connects to raddr and upgrades the connection to p. Under
// network.WithSimultaneousConnect it uses Punch, and the context also says which side
// is the client of the handshake. Otherwise it dials from a listening port, as far as
// the PortUse in force allows. Once TCP is connected it sends one update, unless
// updates is full or nil.
//
// The port is chosen by reuseport.WithPortUse in ctx, else by the function of
// WithPortUse, else by the reuseport.Transport. A punch under NewPort is a plain
// dial. Errors come from the resource manager, from reuseport (errors.Is finds the
// errno and the sentinels of that package), from the upgrader, or are ErrPeerFirst.
func (t *Transport) DialWithUpdates(ctx context.Context, raddr ma.Multiaddr, p peer.ID, updates chan<- transport.DialUpdate) (transport.CapableConn, error) {
	c, err := t.dialOnce(ctx, raddr, p, updates)
	if punch, _, _ := network.GetSimultaneousConnect(ctx); punch && errors.Is(err, errUpgrade) && ctx.Err() == nil {
		// If the peer's listener accepted the connection before the peer began its
		// punch, both sides have the same role. The peer has then closed it and
		// punches (see yield); this time it has to be first.
		time.Sleep(turnTime)
		again, err2 := t.dialOnce(ctx, raddr, p, updates)
		if err2 == nil {
			return again, nil
		}
		return nil, errors.Join(err, err2)
	}
	return c, err
}

// turnTime is how long a host whose punch had the wrong role lets the other one go
// first.
const turnTime = 50 * time.Millisecond

// errUpgrade marks errors of the upgrader.
var errUpgrade = errors.New("libp2ptcp: upgrade")

func (t *Transport) dialOnce(ctx context.Context, raddr ma.Multiaddr, p peer.ID, updates chan<- transport.DialUpdate) (transport.CapableConn, error) {
	scope, err := t.rcmgr.OpenConnection(network.DirOutbound, true, raddr)
	if err != nil {
		return nil, fmt.Errorf("dial %s to %s: %w", p, raddr, err)
	}
	c, err := t.dialInScope(ctx, raddr, p, scope, updates)
	if err != nil {
		scope.Done() // a second call does nothing
		return nil, err
	}
	return c, nil
}

func (t *Transport) dialInScope(ctx context.Context, raddr ma.Multiaddr, p peer.ID, scope network.ConnManagementScope, updates chan<- transport.DialUpdate) (transport.CapableConn, error) {
	if err := scope.SetPeer(p); err != nil {
		return nil, fmt.Errorf("dial %s to %s: %w", p, raddr, err)
	}
	tcp, err := t.connect(ctx, raddr, p)
	if err != nil {
		return nil, err
	}
	if tcp.Cause() == reuseport.TupleInUse && t.arrivals.await(raddr).isFrom(ctx, p) {
		return nil, errors.Join(fmt.Errorf("dial %s to %s: %w", p, raddr, ErrPeerFirst), tcp.Abort())
	}
	notify(updates, raddr)
	raw := t.prepare(tcp, network.DirOutbound, scope)
	c, err := t.upgrader.Upgrade(ctx, t, raw, handshakeRole(ctx), p, scope)
	if err != nil {
		// The upgrader closes raw on most errors, but not on all. Its error is the
		// one that matters.
		_ = raw.Close()
		return nil, fmt.Errorf("%w: %w", errUpgrade, err)
	}
	return &conn{CapableConn: c, tcp: tcp}, nil
}

// connect makes the TCP connection.
func (t *Transport) connect(ctx context.Context, raddr ma.Multiaddr, p peer.ID) (*reuseport.Conn, error) {
	if t.connectTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.connectTimeout)
		defer cancel()
	}
	use := t.portUse(ctx, raddr, p)
	if punch, _, _ := network.GetSimultaneousConnect(ctx); punch && use != reuseport.NewPort {
		return t.punch(ctx, raddr, p)
	}
	c, err := t.reuse.DialContext(reuseport.WithPortUse(ctx, use), raddr)
	if err != nil {
		return nil, err
	}
	return c.(*reuseport.Conn), nil // as DialContext says
}

// punch runs a punch, unless the peer's connection is already there.
func (t *Transport) punch(ctx context.Context, raddr ma.Multiaddr, p peer.ID) (*reuseport.Conn, error) {
	if _, err := t.yield(ctx, raddr, p); err != nil {
		return nil, err
	}
	c, err := t.reuse.Punch(ctx, raddr)
	if !errors.Is(err, reuseport.ErrTupleInUse) {
		return c, err
	}
	// The peer's connection may have arrived in between.
	if cleared, first := t.yield(ctx, raddr, p); first != nil || !cleared {
		return nil, errors.Join(first, err)
	}
	return t.reuse.Punch(ctx, raddr)
}

// yieldTime is how long the client of a punch gives the handshake of an earlier
// connection.
const yieldTime = time.Second

// yield looks for a connection that p opened before we began to punch. A listener has
// accepted it, so we are the server of its handshake. If that is our role, or if p is
// dialing and not punching, the connection is good and the error is ErrPeerFirst.
// Otherwise both sides would wait for the other's first byte, so yield closes it and
// reports cleared. A connection that the host already has is left alone, whoever its
// peer is, because the address to punch is only the peer's claim.
func (t *Transport) yield(ctx context.Context, raddr ma.Multiaddr, p peer.ID) (cleared bool, err error) {
	a := t.arrivals.from(raddr)
	if a == nil {
		return false, nil
	}
	if handshakeRole(ctx) == network.DirOutbound {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, yieldTime)
		defer cancel()
	}
	if a.isFrom(ctx, p) {
		return false, fmt.Errorf("punch %s at %s: %w", p, raddr, ErrPeerFirst)
	}
	return a.drop(), nil
}

// portUse returns which port a dial is to leave from.
func (t *Transport) portUse(ctx context.Context, raddr ma.Multiaddr, p peer.ID) reuseport.PortUse {
	if t.off {
		return reuseport.NewPort
	}
	if use, ok := reuseport.PortUseOf(ctx); ok {
		return use
	}
	if t.choosePort != nil {
		return t.choosePort(ctx, raddr, p)
	}
	if t.foreign && !t.listened.Load() && t.reuse.PortUse == reuseport.PreferReuse {
		return reuseport.NewPort // see WithTransport
	}
	return t.reuse.PortUse
}

// notify tells the swarm that TCP is connected, so that it holds back its other
// dials. Skipping an update costs less than waiting.
func notify(updates chan<- transport.DialUpdate, raddr ma.Multiaddr) {
	select {
	case updates <- transport.DialUpdate{Kind: transport.UpdateKindHandshakeProgressed, Addr: raddr}:
	default: // full, or nil
	}
}

// handshakeRole returns the role in the security handshake: the side that dials is
// the client. When both dial, the context decides.
func handshakeRole(ctx context.Context) network.Direction {
	if punch, isClient, _ := network.GetSimultaneousConnect(ctx); punch && !isClient {
		return network.DirInbound
	}
	return network.DirOutbound
}
