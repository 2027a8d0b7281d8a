package labtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/lab"
	"github.com/reusetransport/reuseport/libp2ptcp"
)

// The transports that a host can have.
const (
	ours    = "ours"
	newPort = "new port" // ours under reuseport.NewPort
	mixed   = "mixed"    // ours, NewPort towards even ports
	stock   = "stock"    // go-libp2p's own
)

func transportOf(kind string) libp2p.Option {
	switch kind {
	case ours:
		return libp2p.Transport(libp2ptcp.New)
	case newPort:
		return libp2p.Transport(libp2ptcp.New, libp2ptcp.WithTransport(&reuseport.Transport{PortUse: reuseport.NewPort}))
	case mixed:
		return libp2p.Transport(libp2ptcp.New, libp2ptcp.WithPortUse(evenPortsNew))
	default:
		return libp2p.Transport(tcp.NewTCPTransport)
	}
}

func evenPortsNew(_ context.Context, raddr ma.Multiaddr, _ peer.ID) reuseport.PortUse {
	if port, err := strconv.Atoi(portOf(raddr)); err == nil && port%2 == 0 {
		return reuseport.NewPort
	}
	return reuseport.PreferReuse
}

// setup describes the host to make.
type setup struct {
	Transport string
	IP        string // to listen on; empty = all
	Port      uint16
	Relay     *peer.AddrInfo // whose slots to use; nil = be a relay
}

// node is a libp2p host and what it has seen.
type node struct {
	host.Host
	relay *peer.AddrInfo
	port  uint16

	mu     sync.Mutex
	events []holepunch.Event
}

// Trace implements the interface of holepunch.WithTracer.
func (n *node) Trace(e *holepunch.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, *e)
}

// nodes are the hosts of one process, by port. Each try has a port of its own, since
// a NAT remembers the 4-tuples of the last one.
type nodes struct {
	mu   sync.Mutex
	open map[uint16]*node
}

// libp2pRole runs libp2p hosts.
func libp2pRole(p *lab.Process) error {
	s := &nodes{open: make(map[uint16]*node)}
	lab.Handle(p, "open", s.start)
	lab.Handle(p, "ready", s.ready)
	lab.Handle(p, "call", s.call)
	lab.Handle(p, "direct", s.direct)
	lab.Handle(p, "connect", s.connect)
	lab.Handle(p, "addrs", s.addrs)
	lab.Handle(p, "sees", s.sees)
	lab.Handle(p, "dial", s.dialMany)
	lab.Handle(p, "receive", s.receive)
	lab.Handle(p, "farewell", s.farewell)
	lab.Handle(p, "shut", s.shut)
	return p.Serve()
}

func (s *nodes) get(port uint16) *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[port]
}

// start makes a host and returns its addresses.
func (s *nodes) start(ctx context.Context, in setup) (peer.AddrInfo, error) {
	n := &node{relay: in.Relay, port: in.Port}
	opts := []libp2p.Option{
		transportOf(in.Transport),
		libp2p.ListenAddrStrings(fmt.Sprintf("/ip4/%s/tcp/%d", cmp.Or(in.IP, "0.0.0.0"), in.Port)),
		libp2p.DisableMetrics(),
		libp2p.ResourceManager(&network.NullResourceManager{}),
	}
	if in.Relay == nil {
		opts = append(opts, relaying()...)
	} else {
		opts = append(opts, libp2p.EnableHolePunching(func(s *holepunch.Service) error { return holepunch.WithTracer(n)(s) }))
	}
	h, err := libp2p.New(opts...)
	if err != nil {
		return peer.AddrInfo{}, err
	}
	n.Host = h
	s.mu.Lock()
	s.open[in.Port] = n
	s.mu.Unlock()
	return *host.InfoFromHost(h), nil
}

// relaying makes a host a relay without the limits that would end a test.
func relaying() []libp2p.Option {
	many := relay.DefaultResources()
	many.MaxReservations, many.MaxReservationsPerIP, many.MaxReservationsPerASN = 1000, 1000, 1000
	many.MaxCircuits = 1000
	return []libp2p.Option{
		libp2p.ForceReachabilityPublic(),
		libp2p.EnableRelayService(relay.WithResources(many), relay.WithInfiniteLimits()),
	}
}

// ready connects to the relay, reserves a slot there and waits until the host knows a
// public address of its own. DCUtR does not start without one.
func (s *nodes) ready(ctx context.Context, in wait) (bool, error) {
	n := s.get(in.Port)
	ctx, cancel := context.WithTimeout(ctx, in.Limit)
	defer cancel()
	if err := n.Connect(ctx, *n.relay); err != nil {
		return false, err
	}
	if _, err := client.Reserve(ctx, n, *n.relay); err != nil {
		return false, err
	}
	for !slices.Contains(n.Mux().Protocols(), holepunch.Protocol) {
		select {
		case <-ctx.Done():
			return false, nil
		case <-time.After(10 * time.Millisecond):
		}
	}
	return true, nil
}

// wait bounds an operation of the host on Port.
type wait struct {
	Port  uint16
	Peer  peer.ID `json:",omitempty"`
	Limit time.Duration
}

// outcome is what a host has after a try.
type outcome struct {
	Direct  bool
	After   time.Duration // from the call through the relay, on the caller's side
	FromTo  string        // addresses of the direct connection
	Ours    bool          // it leaves from, or came to, the listening port
	Punched int           // successful EndHolePunch events
	Failed  int           // failed EndHolePunch events
	Errors  []string
}

// call connects to in.Peer through the relay and waits for a direct connection.
func (s *nodes) call(ctx context.Context, in wait) (outcome, error) {
	n := s.get(in.Port)
	ctx, cancel := context.WithTimeout(ctx, in.Limit)
	defer cancel()
	through, err := ma.NewMultiaddr(fmt.Sprintf("%s/p2p/%s/p2p-circuit", n.relay.Addrs[0], n.relay.ID))
	if err != nil {
		return outcome{}, err
	}
	began := time.Now()
	if err := n.Connect(ctx, peer.AddrInfo{ID: in.Peer, Addrs: []ma.Multiaddr{through}}); err != nil {
		return outcome{}, errors.Join(errors.New("through the relay"), err)
	}
	return n.await(ctx, in.Peer, began), nil
}

// direct waits for the direct connection on the side that was called.
func (s *nodes) direct(ctx context.Context, in wait) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, in.Limit)
	defer cancel()
	return s.get(in.Port).await(ctx, in.Peer, time.Now()), nil
}

// attempts is how many go-libp2p makes before it gives up.
const attempts = 3

// await waits for a direct connection and the tracer's event for it, or for the end
// of the last attempt.
func (n *node) await(ctx context.Context, p peer.ID, began time.Time) outcome {
	var after time.Duration
	for {
		o := n.look(p)
		if o.Direct && after == 0 {
			after = time.Since(began)
		}
		o.After = after
		if o.Direct && o.Punched > 0 || o.Failed == attempts || ctx.Err() != nil {
			return o
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// look returns the present outcome.
func (n *node) look(p peer.ID) (o outcome) {
	for _, c := range n.Network().ConnsToPeer(p) {
		if _, err := c.RemoteMultiaddr().ValueForProtocol(ma.P_CIRCUIT); err != nil {
			o.Direct = true
			o.FromTo = fmt.Sprintf("%s > %s", c.LocalMultiaddr(), c.RemoteMultiaddr())
			o.Ours = portOf(c.LocalMultiaddr()) == strconv.Itoa(int(n.port))
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.events {
		if end, ok := e.Evt.(*holepunch.EndHolePunchEvt); ok && end.Success {
			o.Punched++
		} else if ok {
			o.Failed++
			o.Errors = append(o.Errors, end.Error)
		}
		if pe, ok := e.Evt.(*holepunch.ProtocolErrorEvt); ok {
			o.Errors = append(o.Errors, pe.Error)
		}
	}
	return o
}

func portOf(a ma.Multiaddr) string {
	port, err := a.ValueForProtocol(ma.P_TCP)
	if err != nil {
		return ""
	}
	return port
}

func (s *nodes) shut(_ context.Context, in wait) (struct{}, error) {
	s.mu.Lock()
	n := s.open[in.Port]
	delete(s.open, in.Port)
	s.mu.Unlock()
	return struct{}{}, n.Close()
}
