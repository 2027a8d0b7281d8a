// Package holepunch builds the scene of a hole punch in the lab: two hosts, the
// border in front of each, a rendezvous that both can reach, and a wire between them.
// Its tests measure Transport.Punch there; the lab command draws it.
package holepunch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/lab"
)

// Roles returns the roles of the hosts of a Scene.
func Roles() lab.Roles {
	return lab.Roles{rolePeer: peer, roleRendezvous: rendezvous}
}

const (
	rolePeer       = "holepunch peer"
	roleRendezvous = "holepunch rendezvous"
)

// From says which port a host tries to punch from.
type From string

const (
	// Listening is the port that the host listens on: Transport.Punch.
	Listening From = "listening port"

	// Ephemeral is a new port for each dial. The peer cannot know it.
	Ephemeral From = "ephemeral port"

	// Plain is one plain dial from the port that the host listens on.
	Plain From = "plain dial"

	accept From = "accept"
)

// opening asks a peer to listen on a port and to learn its mapping.
type opening struct {
	Port       uint16
	Rendezvous netip.AddrPort
}

// attempt asks a peer to punch.
type attempt struct {
	Port     uint16
	To       netip.AddrPort
	From     From
	At       time.Time     // when
	Patience time.Duration // for how long
}

// Outcome is the result of a punch on one side.
type Outcome struct {
	Connected bool
	Err       string // if not connected
	Hello     string // what the other side wrote, "a 4001"
	Accepted  bool   // the connection arrived at the listener
	Reused    bool
	Took      time.Duration
	SYNs      uint64 // as the Transport counts them
}

// peerHost is the state of a peer: a Transport for each port, since each try has a port of its own.
type peerHost struct {
	name string

	mu   sync.Mutex
	open map[uint16]*endpoint
}

type endpoint struct {
	reuseport.Transport
	listener net.Listener
	conns    []net.Conn
}

func peer(p *lab.Process) error {
	h := &peerHost{name: p.Name(), open: make(map[uint16]*endpoint)}
	lab.Handle(p, "open", h.openPort)
	lab.Handle(p, "punch", h.punch)
	lab.Handle(p, "shut", h.shut)
	return p.Serve()
}

// openPort listens and dials the rendezvous from the listening port. It returns the
// address that the rendezvous saw.
func (h *peerHost) openPort(ctx context.Context, o opening) (netip.AddrPort, error) {
	e := &endpoint{}
	l, err := e.ListenPort(o.Port)
	if err != nil {
		return netip.AddrPort{}, err
	}
	e.listener = manet.NetListener(l)
	h.mu.Lock()
	h.open[o.Port] = e
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := e.DialNetContext(reuseport.WithPortUse(ctx, reuseport.RequireReuse), "tcp", o.Rendezvous.String())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("rendezvous: %w", err)
	}
	e.conns = append(e.conns, c)
	seen, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("rendezvous: %w", err)
	}
	return netip.ParseAddrPort(seen[:len(seen)-1])
}

func (h *peerHost) endpoint(port uint16) *endpoint {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open[port]
}

// punch connects to the peer and greets it. A failure to connect is an outcome, not
// an error.
func (h *peerHost) punch(ctx context.Context, a attempt) (Outcome, error) {
	e := h.endpoint(a.Port)
	time.Sleep(time.Until(a.At))
	ctx, cancel := context.WithTimeout(ctx, a.Patience)
	defer cancel()
	began := time.Now()
	c, err := e.connect(ctx, a)
	out := Outcome{Took: time.Since(began), SYNs: e.Stats().PunchSYNs}
	if err != nil {
		out.Err = err.Error()
		return out, nil
	}
	e.conns = append(e.conns, c)
	out.Connected = true
	if r, ok := c.(*reuseport.Conn); ok {
		out.Accepted, out.Reused = r.Direction() == reuseport.Accepted, r.Reused()
	}
	out.Hello, err = greet(c, fmt.Sprintf("%s %d", h.name, a.Port))
	return out, err
}

func (e *endpoint) connect(ctx context.Context, a attempt) (net.Conn, error) {
	switch a.From {
	case Ephemeral:
		return dialUntilDone(ctx, a.To)
	case accept:
		defer context.AfterFunc(ctx, func() { e.listener.Close() })()
		return e.listener.Accept()
	case Plain:
		return e.DialNetContext(reuseport.WithPortUse(ctx, reuseport.RequireReuse), "tcp", a.To.String())
	}
	to, err := multiaddr(a.To)
	if err != nil {
		return nil, err
	}
	c, err := e.Punch(ctx, to)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// dialUntilDone does the best that a host without port reuse can do: when it is
// refused it dials again, each time from a new port.
func dialUntilDone(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	for {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", to.String())
		if err == nil || ctx.Err() != nil {
			return c, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// greet sends hello and returns what the other side sends.
func greet(c net.Conn, hello string) (string, error) {
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, hello+"\n"); err != nil {
		return "", err
	}
	said, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("the other side said nothing: %w", err)
	}
	return said[:len(said)-1], nil
}

// shut ends a try. Everything has been said, so there is nothing to deliver.
func (h *peerHost) shut(ctx context.Context, port uint16) (int, error) {
	e := h.endpoint(port)
	var errs []error
	for _, c := range e.conns {
		errs = append(errs, abort(c))
	}
	return len(errs), errors.Join(append(errs, e.Shutdown(ctx))...)
}

func abort(c net.Conn) error {
	if r, ok := c.(*reuseport.Conn); ok {
		return r.Abort()
	}
	return c.Close()
}

func multiaddr(a netip.AddrPort) (ma.Multiaddr, error) {
	return manet.FromNetAddr(net.TCPAddrFromAddrPort(a))
}

// rendezvous tells each connection the address it came from, and keeps it open to
// keep the mapping.
func rendezvous(p *lab.Process) error {
	lab.Handle(p, "listen", func(ctx context.Context, port uint16) (string, error) {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return "", err
		}
		context.AfterFunc(ctx, func() { l.Close() })
		go tellAddresses(l)
		return l.Addr().String(), nil
	})
	return p.Serve()
}

func tellAddresses(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			from := c.RemoteAddr().(*net.TCPAddr).AddrPort()
			fmt.Fprintf(c, "%v\n", netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
			_, _ = io.Copy(io.Discard, c) // until the peer closes
		}()
	}
}
