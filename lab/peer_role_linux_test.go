package lab_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	upstream "github.com/libp2p/go-libp2p/p2p/net/reuseport"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/lab"
)

// transport is what this module's Transport and that of go-libp2p have in common.
type transport interface {
	Listen(laddr ma.Multiaddr) (manet.Listener, error)
	DialContext(ctx context.Context, raddr ma.Multiaddr) (manet.Conn, error)
}

// dialed is the result of a dial.
type dialed struct {
	Local   netip.AddrPort
	Seen    netip.AddrPort // what the other side saw
	Reused  bool
	Cause   string
	Sockets int64 // made for this dial, as counted by Control; a look-up makes one
}

// dialTo asks for a dial.
type dialTo struct {
	Addr string // multiaddr
	Mark int    // SO_MARK of the socket; zero = none
	Use  reuseport.PortUse
}

// peer is a host with a transport. It tells each connection it accepts the address it
// came from.
type peer struct {
	transport transport
	mark      atomic.Int64
	sockets   atomic.Int64

	mu        sync.Mutex
	listeners map[string]io.Closer
}

func ourPeer(p *lab.Process) error { return newOurs().serve(p) }

func newOurs() *peer {
	a := newPeer()
	a.transport = &reuseport.Transport{Control: a.control}
	return a
}

// barePeer is ourPeer without Control, so that the socket that asks for sources is
// kept between dials.
func barePeer(p *lab.Process) error {
	a := newPeer()
	a.transport = new(reuseport.Transport)
	lab.Handle(p, "shutdown", a.shutdown)
	lab.Handle(p, "abandon", a.abandon)
	lab.Handle(p, "collect", collect)
	lab.Handle(p, "sockets", countSockets)
	lab.Handle(p, "dialAtOnce", a.dialAtOnce)
	return a.serve(p)
}

func (a *peer) shutdown(ctx context.Context, _ struct{}) (struct{}, error) {
	clear(a.listeners)
	return struct{}{}, a.transport.(*reuseport.Transport).Shutdown(ctx)
}

// abandon closes the listeners and forgets the Transport.
func (a *peer) abandon(context.Context, struct{}) (struct{}, error) {
	var errs []error
	for _, l := range a.listeners {
		errs = append(errs, l.Close())
	}
	clear(a.listeners)
	a.transport = new(reuseport.Transport)
	return struct{}{}, errors.Join(errs...)
}

// collect runs the garbage collector, which closes sockets that are no longer
// referenced.
func collect(context.Context, struct{}) (struct{}, error) {
	runtime.GC()
	time.Sleep(100 * time.Millisecond) // cleanups run on a goroutine of their own
	return struct{}{}, nil
}

// countSockets returns how many descriptors are sockets.
func countSockets(context.Context, struct{}) (n int, err error) {
	open, err := filepath.Glob("/proc/self/fd/*")
	for _, fd := range open {
		if link, _ := os.Readlink(fd); strings.HasPrefix(link, "socket:") {
			n++
		}
	}
	return n, err
}

// dialAtOnce dials from several goroutines and resets the connections.
func (a *peer) dialAtOnce(ctx context.Context, to manyTo) (struct{}, error) {
	raddr, err := ma.NewMultiaddr(to.Addr)
	if err != nil {
		return struct{}{}, err
	}
	errs := make([]error, to.Count)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			c, err := a.transport.DialContext(ctx, raddr)
			if errs[i] = err; err == nil {
				errs[i] = c.(*reuseport.Conn).Abort()
			}
		})
	}
	wg.Wait()
	return struct{}{}, errors.Join(errs...)
}

func libp2pPeer(p *lab.Process) error {
	a := newPeer()
	a.transport = &upstream.Transport{}
	return a.serve(p)
}

func newPeer() *peer { return &peer{listeners: map[string]io.Closer{}} }

func (a *peer) serve(p *lab.Process) error {
	lab.Handle(p, "listen", a.listen)
	lab.Handle(p, "close", a.close)
	lab.Handle(p, "dial", a.dial)
	lab.Handle(p, "dialMany", a.dialMany)
	lab.Handle(p, "stranger", a.stranger)
	lab.Handle(p, "second", a.second)
	lab.Handle(p, "interfaces", interfaces)
	lab.Handle(p, "observe", plainObserve)
	err := p.Serve()
	for addr := range a.listeners {
		_, closed := a.close(p.Context(), addr)
		err = errors.Join(err, closed)
	}
	return err
}

// control marks sockets and counts them.
func (a *peer) control(_, _ string, c syscall.RawConn) error {
	a.sockets.Add(1)
	mark := int(a.mark.Load())
	if mark == 0 {
		return nil
	}
	var err error
	return errors.Join(c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark)
	}), err)
}

func (a *peer) listen(_ context.Context, addr string) (string, error) {
	return a.listenWith(a.transport, addr)
}

// second listens with a second transport of the same kind.
func (a *peer) second(_ context.Context, addr string) (string, error) {
	if _, ok := a.transport.(*reuseport.Transport); ok {
		return a.listenWith(&reuseport.Transport{}, addr)
	}
	return a.listenWith(&upstream.Transport{}, addr)
}

func (a *peer) listenWith(t transport, addr string) (string, error) {
	laddr, err := ma.NewMultiaddr(addr)
	if err != nil {
		return "", err
	}
	l, err := t.Listen(laddr)
	if err != nil {
		return "", err
	}
	go tellPeers(manet.NetListener(l))
	return l.Multiaddr().String(), a.keep(l.Multiaddr().String(), l)
}

// stranger listens without the transport, as another program would.
func (a *peer) stranger(_ context.Context, addr string) (string, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", err
	}
	go tellPeers(l)
	return addr, a.keep(addr, l)
}

func (a *peer) keep(addr string, l io.Closer) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.listeners[addr] = l
	return nil
}

func (a *peer) close(_ context.Context, addr string) (struct{}, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l, ok := a.listeners[addr]
	if !ok {
		return struct{}{}, errors.New("no listener on " + addr)
	}
	delete(a.listeners, addr)
	return struct{}{}, l.Close()
}

func (a *peer) dial(ctx context.Context, to dialTo) (dialed, error) {
	raddr, err := ma.NewMultiaddr(to.Addr)
	if err != nil {
		return dialed{}, err
	}
	ctx, cancel := context.WithTimeout(reuseport.WithPortUse(ctx, to.Use), patience)
	defer cancel()
	a.mark.Store(int64(to.Mark))
	a.sockets.Store(0)
	c, err := a.transport.DialContext(ctx, raddr)
	if err != nil {
		return dialed{}, err
	}
	defer c.Close()
	return a.describe(c)
}

func (a *peer) describe(c manet.Conn) (dialed, error) {
	d := dialed{Local: addrPort(c.LocalAddr()), Sockets: a.sockets.Load()}
	if ours, ok := c.(*reuseport.Conn); ok {
		d.Reused, d.Cause = ours.Reused(), ours.Cause().String()
	}
	if d.Local == addrPort(c.RemoteAddr()) {
		return d, nil // connected to itself: there is no other side
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return d, err
	}
	seen, err := readSeen(c)
	d.Seen = seen
	return d, err
}

// dialMany makes Count dials and returns their durations, sorted.
func (a *peer) dialMany(ctx context.Context, to manyTo) ([]time.Duration, error) {
	raddr, err := ma.NewMultiaddr(to.Addr)
	if err != nil {
		return nil, err
	}
	var took []time.Duration
	for range to.Count {
		begin := time.Now()
		c, err := a.transport.DialContext(ctx, raddr)
		if err != nil {
			return took, err
		}
		took = append(took, time.Since(begin))
		if _, err := readSeen(c); err != nil {
			return took, err
		}
		if err := c.Close(); err != nil {
			return took, err
		}
	}
	return took, nil
}

// manyTo asks for many dials.
type manyTo struct {
	Addr  string
	Count int
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
