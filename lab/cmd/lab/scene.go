package main

import (
	"context"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/lab"
	"github.com/reusetransport/reuseport/lab/holepunch"
)

// Names and addresses of the scene. The public side is in 192.0.0.0/24, which is not
// routed anywhere.
const (
	wire       = "wire"
	port       = "4001" // that a and b listen on
	listenOn   = "/ip4/0.0.0.0/tcp/" + port
	rendezvous = "/ip4/192.0.0.80/tcp/7001"
	second     = "/ip4/192.0.0.81/tcp/7002" // shows whether the mapping is endpoint-independent
)

// dialLimit bounds one dial, also on a busy machine.
const dialLimit = 10 * time.Second

func topology(cfg config) lab.Topology {
	nat := cfg.nat
	return lab.Topology{
		Wires: lab.Wires{wire: {Delay: cfg.rtt / 2}},
		Hosts: lab.Hosts{
			"a":    {On: lab.On{"lanA": "10.1.0.2/24"}, Via: "10.1.0.1", Role: "peer"},
			"natA": {On: lab.On{"lanA": "10.1.0.1/24", wire: "192.0.0.65/24"}, NAT: &nat},
			"b":    {On: lab.On{"lanB": "10.2.0.2/24"}, Via: "10.2.0.1", Role: "peer"},
			"natB": {On: lab.On{"lanB": "10.2.0.1/24", wire: "192.0.0.66/24"}, NAT: &nat},
			"r":    {On: lab.On{wire: "192.0.0.80/24 192.0.0.81/24"}, Role: "rendezvous"},
		},
	}
}

// mapping is what one dial to the rendezvous showed.
type mapping struct {
	Host   string
	To     netip.AddrPort
	Local  netip.AddrPort
	Seen   netip.AddrPort // by the rendezvous
	Reused bool
}

// sight is what the scene showed.
type sight struct {
	mappings []mapping
	packets  []lab.Packet
}

// play makes a and b dial both addresses of the rendezvous.
func play(ctx context.Context, n *lab.Network) (sight, error) {
	var s sight
	for _, host := range []string{"a", "b"} {
		for _, to := range []string{rendezvous, second} {
			m, err := lab.Call[mapping](ctx, n, host, "reach", to)
			if err != nil {
				return s, err
			}
			s.mappings = append(s.mappings, m)
		}
	}
	log, err := n.Log(wire)
	s.packets = log.Packets
	return s, err
}

func roles() lab.Roles {
	all := lab.Roles{"peer": peer, "rendezvous": meet}
	maps.Copy(all, holepunch.Roles())
	return all
}

// peer listens, and dials from its listening port when told to.
func peer(p *lab.Process) error {
	var t reuseport.Transport
	if _, err := t.Listen(ma.StringCast(listenOn)); err != nil {
		return err
	}
	lab.Handle(p, "reach", func(ctx context.Context, to string) (mapping, error) {
		return reach(ctx, &t, p.Name(), ma.StringCast(to))
	})
	return finish(p, &t)
}

// finish serves until the scene is over.
func finish(p *lab.Process, t *reuseport.Transport) error {
	if err := p.Serve(); err != nil {
		return err
	}
	return t.Shutdown(context.Background())
}

// reach dials and reads the address that the other side saw.
func reach(ctx context.Context, t *reuseport.Transport, host string, to ma.Multiaddr) (mapping, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	c, err := t.DialContext(ctx, to)
	if err != nil {
		return mapping{}, err
	}
	defer c.Close()
	text, err := io.ReadAll(c)
	if err != nil {
		return mapping{}, err
	}
	m := mapping{Host: host, Reused: c.(*reuseport.Conn).Reused()}
	for at, s := range map[*netip.AddrPort]string{
		&m.To: c.RemoteAddr().String(), &m.Local: c.LocalAddr().String(), &m.Seen: string(text),
	} {
		if *at, err = netip.ParseAddrPort(s); err != nil {
			return m, err
		}
	}
	return m, nil
}

// meet tells each peer the address it comes from.
func meet(p *lab.Process) error {
	var t reuseport.Transport
	for _, addr := range []string{rendezvous, second} {
		l, err := t.Listen(ma.StringCast(addr))
		if err != nil {
			return err
		}
		go greet(l)
	}
	return finish(p, &t)
}

// greet runs until the listener closes.
func greet(l manet.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go tell(c.(*reuseport.Conn))
	}
}

// tell writes the peer's address and waits for the peer to close.
func tell(c *reuseport.Conn) {
	defer c.Close()
	if _, err := io.WriteString(c, c.RemoteAddr().String()); err != nil || c.CloseWrite() != nil {
		return // the peer is gone; its own error says why
	}
	_, _ = io.Copy(io.Discard, c) // until the peer closes
}

// syns returns the packets with a SYN, in order of time.
func syns(all []lab.Packet) []lab.Packet {
	some := slices.DeleteFunc(slices.Clone(all), func(p lab.Packet) bool { return p.Flags&lab.SYN == 0 })
	slices.SortStableFunc(some, func(x, y lab.Packet) int { return x.At.Compare(y.At) })
	return some
}

// lanes are the columns of the drawing.
func lanes() []string { return strings.Fields("natA r natB") }
