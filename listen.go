package reuseport

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport/internal/accept"
)

// Listen listens on laddr: the multiaddrs of DialContext; of a name the first
// address (IPv4 before IPv6). /ip6 listens for IPv6 alone; ListenPort serves both
// families. Accept returns a *Conn. The listener has the further methods File and
// SyscallConn, as *net.TCPListener has them.
//
// The port is exclusive unless Shared is set: whoever listens on it already, in
// this process or another, makes Listen fail with EADDRINUSE. (A connection that
// happens to own the port as its ephemeral port does so too.) What others can
// still take is in the package documentation under "Exclusive listening".
//
// t itself may listen on one address as often as it likes: the listeners are
// handles of one socket, closing one loses nothing, and the last Close frees the
// port. /ip6/:: on the port of a ListenPort is a handle of that, and takes part in its
// IPv4 connections. Not so on Windows without Shared, where the second Listen fails.
//
// The accept queue has the system's maximum length (net.core.somaxconn on Linux).
// After Shutdown the error is net.ErrClosed.
func (t *Transport) Listen(laddr ma.Multiaddr) (manet.Listener, error) {
	g, err := parseMultiaddr(laddr)
	if err != nil {
		return nil, err
	}
	if g.host != "" {
		if g.addr, err = g.first(context.Background()); err != nil {
			return nil, &net.OpError{Op: "listen", Net: "tcp", Err: err}
		}
	}
	return t.open(listenAddr{AddrPort: g.addr})
}

// ListenPort listens on a port of all addresses, IPv4 and IPv6, with one
// dual-stack socket; IPv4 peers show as IPv4. Port 0 lets the system pick. Where
// IPv6 is off, or a system has no dual-stack sockets (OpenBSD), it listens on IPv4 alone.
// For the rest see Listen.
func (t *Transport) ListenPort(port uint16) (manet.Listener, error) {
	any := netip.AddrPortFrom(netip.IPv6Unspecified(), port)
	l, err := t.open(listenAddr{AddrPort: any, dual: true})
	if err == nil || !noIPv6(err) {
		return l, err
	}
	return t.open(listenAddr{AddrPort: wildcard(netip.IPv4Unspecified(), port)})
}

// noIPv6 says whether listening failed because the system has no IPv6.
func noIPv6(err error) bool {
	return isAddrNotAvail(err) || errors.Is(err, syscall.EAFNOSUPPORT)
}

// first returns the address to listen on for a name: IPv4 if it has one.
func (g target) first(ctx context.Context) (netip.AddrPort, error) {
	addrs, err := g.resolve(ctx)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for _, a := range addrs {
		if a.Addr().Is4() {
			return a, nil
		}
	}
	return addrs[0], nil
}

// open makes a handle of the socket on laddr, a new one or one of ours.
func (t *Transport) open(laddr listenAddr) (manet.Listener, error) {
	r := &t.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.load().shut {
		return nil, errShutdown
	}
	for sock := r.load().find(laddr); sock != nil; sock = r.load().find(laddr) {
		l, err := t.duplicate(sock)
		if errors.Is(err, errors.ErrUnsupported) {
			break
		}
		if !errors.Is(err, net.ErrClosed) {
			return l, err
		}
		r.drop(sock.handles[0]) // wrapped, and then closed behind our back
	}
	tcp, err := t.bind(laddr, r.load())
	if err != nil {
		return nil, err
	}
	return t.register(tcp, laddr)
}

// bind makes a listening socket: exclusively, or shared where the user or our own
// overlapping listener asks for it.
func (t *Transport) bind(laddr listenAddr, now *snapshot) (*net.TCPListener, error) {
	if t.Shared {
		return listen(laddr, t.control().then(setReuse))
	}
	tcp, err := listen(laddr, t.control().then(t.exclusive))
	if err == nil || !isAddrInUse(err) || !now.overlaps(laddr) {
		return tcp, err
	}
	// A wildcard beside one of our specific addresses, or the reverse: the kernel
	// lets it in only with the options of port sharing (TestWildcardBesideSpecific).
	tcp, err = listen(laddr, t.control().then(setReuse))
	if err != nil {
		return nil, err
	}
	raw, err := tcp.SyscallConn()
	if err == nil {
		err = guardListening(raw)
	}
	t.guardFailed(laddr.String(), err)
	return tcp, nil
}

// exclusive is for sockets that listen exclusively. They work without the guard.
func (t *Transport) exclusive(_, address string, c syscall.RawConn) error {
	if err := setExclusive(c); err != nil {
		return err
	}
	t.guardFailed(address, guard(c))
	return nil
}

// guardFailed tells operators of a guard that is missing, if err says so.
func (t *Transport) guardFailed(laddr string, err error) {
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.log().Warn("listener has no guard against later joiners", "laddr", laddr, "err", err)
	}
}

// listenTries is how often a listen is tried that lost a race nobody may have won.
const listenTries = 5

// listen is listenOnce, again after up to a few milliseconds where it lost a race.
func listen(laddr listenAddr, control controlFunc) (*net.TCPListener, error) {
	for try := 1; ; try++ {
		l, err := listenOnce(laddr, control)
		if err == nil || try == listenTries || !lostRace(err) {
			return l, err
		}
		time.Sleep(rand.N(time.Duration(try) * time.Millisecond))
	}
}

// lostRace says whether bind succeeded and listen did not: another socket came to
// listen between the two. Linux marks both as listening before it checks either, so
// that both may fail: 8 times in 100,000 races, and not once with these tries
// (TestTwoStartersOneWins, 1,000 of them). If the other one has won, the next bind
// tells.
func lostRace(err error) bool {
	var call *os.SyscallError
	return errors.As(err, &call) && call.Syscall == "listen" && isAddrInUse(call.Err)
}

// listenOnce is net.Listen with our options. A Multipath TCP socket, Go's default,
// does not pass later socket options on to the TCP sockets beneath it.
func listenOnce(laddr listenAddr, control controlFunc) (*net.TCPListener, error) {
	lc := net.ListenConfig{Control: control.then(inheritEarly), KeepAlive: ownKeepAlive}
	lc.SetMultipathTCP(false)
	nw, address := network(laddr.Addr()), laddr.String()
	if laddr.dual {
		// Package net knows whether both families are there.
		nw, address = "tcp", ":"+strconv.Itoa(int(laddr.Port()))
	}
	l, err := lc.Listen(context.Background(), nw, address)
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// inheritEarly sets what accepted connections inherit before the socket listens: what
// arrives in the moment after listen inherits it too (TestLingerFromTheFirst).
func inheritEarly(_, _ string, c syscall.RawConn) error { return c.Control(toInherit) }

// register prepares a new socket for reuse and enters it. The caller holds mu.
func (t *Transport) register(tcp *net.TCPListener, asked listenAddr) (manet.Listener, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	sock := newSocket(tcp, raw)
	sock.asked = asked
	sock.reusable = t.Shared || t.makeReusable(sock.laddr, raw)
	if sock.reusable && t.registry.load().mixes(sock.laddr) {
		t.flatten(sock.laddr)
	}
	sock.lingers = inheritsLinger // where not, Accept sets it
	l := t.newListener(tcp, sock)
	t.registry.add(sock, l)
	return l, nil
}

// newSocket describes a listening socket.
func newSocket(tcp *net.TCPListener, raw syscall.RawConn) *socket {
	sock := &socket{laddr: listenAddr{AddrPort: netAddr(tcp.Addr())}}
	sock.laddr.dual = sock.laddr.Addr() == netip.IPv6Unspecified() && isDual(raw)
	return sock
}

// makeReusable lets our dials bind the port of an exclusive listener. Where the
// system refuses, the listener works without reuse.
func (t *Transport) makeReusable(laddr listenAddr, raw syscall.RawConn) bool {
	if err := allowReuse(raw); err != nil {
		t.log().Debug("no port reuse", "laddr", laddr.String(), "err", err)
		return false
	}
	return true
}

// flatten keeps the cost of bind independent of live connections, where it can.
func (t *Transport) flatten(laddr listenAddr) {
	if err := keepBindFlat(laddr.Port()); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.log().Debug("bind may get slower with live connections", "laddr", laddr.String(), "err", err)
	}
}

// isDual says whether a socket on [::] serves IPv4 too.
func isDual(raw syscall.RawConn) bool {
	v6only, err := isV6Only(raw)
	return err == nil && !v6only
}

// duplicate makes a further handle of a socket of ours. The caller holds mu.
func (t *Transport) duplicate(sock *socket) (manet.Listener, error) {
	f, err := sock.handles[0].File()
	if err != nil {
		return nil, err
	}
	nl, err := net.FileListener(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	l := t.newListener(nl.(*net.TCPListener), sock)
	sock.handles = append(sock.handles, l)
	t.registry.open.Add(1)
	return l, nil
}

// controlFunc is a function for net.Dialer.Control and net.ListenConfig.Control.
// A nil one does nothing.
type controlFunc func(network, address string, c syscall.RawConn) error

// control is the user's control function.
func (t *Transport) control() controlFunc { return t.Control }

// then returns a control function that calls f and, if it is content, g.
func (f controlFunc) then(g controlFunc) controlFunc {
	if f == nil {
		return g
	}
	return func(network, address string, c syscall.RawConn) error {
		if err := f(network, address, c); err != nil {
			return err
		}
		return g(network, address, c)
	}
}

// reuseControl is for sockets that dial from a listening port.
func (t *Transport) reuseControl() controlFunc { return t.control().then(markedReuse) }

// markedReuse is reuseToDial with an error that localFault knows.
func markedReuse(network, address string, c syscall.RawConn) error {
	if err := reuseToDial(network, address, c); err != nil {
		return fmt.Errorf("%w: %w", errNoReuseOption, err)
	}
	return nil
}

// WrapListener makes t dial from the port of a listener made elsewhere: socket
// activation, a hand-over from an earlier process, an interface binding of its own. It
// sets SO_REUSEPORT on the socket, and nothing else that another process which
// shares the socket could notice: SO_LINGER 0 is set on each accepted connection.
// Where the system refuses, the listener works without reuse. Whether the port is
// exclusive was decided when tcp was bound.
//
// tcp belongs to t from now on: closing what is returned closes tcp, and other
// descriptors of the same socket, in this process or another, stay open. On error
// tcp is untouched and stays the caller's: it is nil (EINVAL) or closed
// (net.ErrClosed), or t is shut down (net.ErrClosed).
func (t *Transport) WrapListener(tcp *net.TCPListener) (manet.Listener, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, &net.OpError{Op: "wrap", Net: "tcp", Err: err}
	}
	t.registry.mu.Lock()
	defer t.registry.mu.Unlock()
	if t.registry.load().shut {
		return nil, errShutdown
	}
	if err := raw.Control(func(uintptr) {}); err != nil {
		return nil, err // closed
	}
	sock := newSocket(tcp, raw)
	if err := allowReuse(raw); err != nil {
		t.log().Debug("no port reuse", "laddr", sock.laddr.String(), "err", err)
	} else {
		sock.reusable = true
		t.flatten(sock.laddr)
	}
	l := t.newListener(tcp, sock)
	t.registry.add(sock, l)
	return l, nil
}

// listener is a handle of a listening socket.
type listener struct {
	t       *Transport
	tcp     *net.TCPListener
	socket  *socket
	backoff accept.Backoff
	closed  chan struct{} // closed by the first Close
	once    sync.Once
}

var _ interface {
	manet.Listener
	syscall.Conn
	File() (*os.File, error)
} = (*listener)(nil)

func (t *Transport) newListener(tcp *net.TCPListener, sock *socket) *listener {
	l := &listener{t: t, tcp: tcp, socket: sock, closed: make(chan struct{})}
	l.backoff.Notify = l.swallowed
	return l
}

// Accept waits for the next connection, a *Conn, which it gives to the caller.
// Errors that are not the listener's end do not reach the caller: a connection
// that was aborted in the queue is skipped, and while descriptors or buffers are
// out Accept tries again after 5 ms, doubling to 1 s. It returns net.ErrClosed
// after Close, and the system's error if the socket itself has died (EBADF,
// EINVAL); dials have then stopped using its port.
func (l *listener) Accept() (manet.Conn, error) {
	for {
		c, err := l.next()
		if err != nil {
			return nil, err
		}
		if !l.t.punches.take(c) {
			l.t.counters.accepted.Add(1)
			return c, nil
		}
	}
}

// next returns a connection that a punch left for Accept, or waits for one.
func (l *listener) next() (*Conn, error) {
	if l.isClosed() {
		return nil, l.ended(net.ErrClosed)
	}
	if c := l.socket.queue.enter(); c != nil {
		return c, nil
	}
	defer l.socket.queue.leave()
	for {
		tcp, err := accept.Next(&l.backoff, l.closed, l.tcp.AcceptTCP)
		if err != nil {
			return nil, l.ended(err)
		}
		if c := l.wrap(tcp); c != nil {
			return c, nil
		}
	}
}

// wrap makes a Conn of an accepted connection. It returns nil if the connection
// has died meanwhile: macOS then refuses socket options. Where package net gives no
// access to the socket (Plan 9, js, WASI), SO_LINGER stays as it is.
func (l *listener) wrap(tcp *net.TCPConn) *Conn {
	c := &Conn{TCPConn: tcp, t: l.t, direction: Accepted}
	c.frees.Store(true)
	if l.socket.lingers || !canFlush || c.SetLinger(0) == nil {
		return c
	}
	_ = tcp.Close() // the peer's reset came first; there is nothing to tell anybody
	l.t.counters.acceptSkipped.Add(1)
	return nil
}

// isClosed says whether Close was called on this handle.
func (l *listener) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

// swallowed counts an error that Accept goes on after, and logs the first of a
// burst that makes it wait.
func (l *listener) swallowed(e accept.Event) {
	if e.Kind == accept.Harmless {
		l.t.counters.acceptSkipped.Add(1)
		return
	}
	l.t.counters.acceptDelayed.Add(1)
	if e.First {
		l.t.log().Warn("accept waits", "laddr", l.Addr().String(), "err", e.Err)
	}
}

// ended sorts the error that ends Accept and takes a dead socket out of the
// registry: one handle whose descriptor is gone, or all where shutdown(2) has ended
// the socket itself (EINVAL).
func (l *listener) ended(err error) error {
	if err == net.ErrClosed { // woken from a wait; AcceptTCP itself returns *net.OpError
		return &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: err}
	}
	if accept.Classify(err) == accept.Dead && l.t.registry.remove(l, errors.Is(err, syscall.EINVAL)) {
		l.t.log().Warn("listener died", "laddr", l.Addr().String(), "err", err)
	}
	return err
}

// Close closes this handle; Accept on it returns net.ErrClosed. Dials stop using
// the port with the last handle, and the port is free. Connections stay open. A
// second Close returns net.ErrClosed.
func (l *listener) Close() error {
	l.wake()
	return l.finishClose(l.t.registry.close(l))
}

// closeSocket closes the descriptor of a handle that the registry has let go.
func (l *listener) closeSocket() error {
	l.wake()
	return l.finishClose(l.tcp.Close())
}

// wake ends the wait of an Accept that has met an error.
func (l *listener) wake() { l.once.Do(func() { close(l.closed) }) }

// finishClose ends what the last handle leaves. err is what closing it returned.
func (l *listener) finishClose(err error) error {
	if l.t.registry.holds(l.socket) {
		return err
	}
	return errors.Join(err, l.socket.queue.abort())
}

// Addr returns the address the socket is bound to.
func (l *listener) Addr() net.Addr { return l.tcp.Addr() }

// Multiaddr returns Addr as a multiaddr.
func (l *listener) Multiaddr() ma.Multiaddr {
	m, err := manet.FromNetAddr(l.tcp.Addr())
	if err != nil {
		return nil // no TCP address fails here
	}
	return m
}

// SyscallConn gives access to the socket, as net.TCPListener.SyscallConn does.
func (l *listener) SyscallConn() (syscall.RawConn, error) { return l.tcp.SyscallConn() }

// File returns a duplicate of the descriptor, to hand to another process. It
// belongs to the caller; closing it does not affect the listener, nor the reverse.
func (l *listener) File() (*os.File, error) {
	raw, err := l.tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	return dupSocket(raw)
}
