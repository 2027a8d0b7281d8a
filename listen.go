package reuseport

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport/internal/errno"
	"github.com/reusetransport/reuseport/internal/netaddr"
	"github.com/reusetransport/reuseport/internal/sockopt"
)

// Listen listens on laddr, a multiaddr as DialContext takes it. Of a name it takes the
// first address, IPv4 before IPv6. /ip6 listens for IPv6 alone; ListenPort serves both
// families. Accept returns a *Conn. The result is a *Listener, which has the methods
// of *net.TCPListener too.
//
// The port is exclusive unless Shared is set: if it has a listener already, in this
// process or another, Listen fails with EADDRINUSE. (A connection that happens to own
// the port as its ephemeral port has the same effect.) The package documentation says
// under "Exclusive listening" what others can still take.
//
// t itself may listen on one address as often as it likes: the listeners are handles of
// one socket, closing one loses nothing, and the last Close frees the port. /ip6/:: on
// the port of a ListenPort is a handle of that listener, and accepts its IPv4
// connections too. On Windows without Shared there are no such handles, and the second
// Listen fails.
//
// The accept queue has the system's maximum length (net.core.somaxconn on Linux). After
// Shutdown the error is net.ErrClosed.
func (t *Transport) Listen(laddr ma.Multiaddr) (manet.Listener, error) {
	at, err := parseMultiaddr(laddr)
	if err != nil {
		return nil, err
	}
	if at.host != "" {
		if at.addr, err = at.first(context.Background(), t.resolver()); err != nil {
			return nil, opError("listen", "tcp", netip.AddrPort{}, netip.AddrPort{}, err)
		}
	}
	return t.open(listenAddr{AddrPort: netip.AddrPortFrom(zoned(at.addr.Addr()), at.addr.Port())})
}

// ListenPort listens on a port of all addresses, IPv4 and IPv6, with one dual-stack
// socket. IPv4 peers show as IPv4. Port 0 lets the system pick. Where IPv6 is off, or
// the system has no dual-stack sockets (OpenBSD), it listens on IPv4 alone. See Listen
// for the rest.
func (t *Transport) ListenPort(port uint16) (manet.Listener, error) {
	l, err := t.open(listenAddr{AddrPort: netaddr.Wildcard(netip.IPv6Unspecified(), port), dual: true})
	if err == nil || !lacksIPv6(err) {
		return l, err
	}
	return t.open(listenAddr{AddrPort: netaddr.Wildcard(netip.IPv4Unspecified(), port)})
}

// lacksIPv6 reports whether listening failed because the system has no IPv6.
func lacksIPv6(err error) bool {
	return errno.IsAddrNotAvail(err) || errors.Is(err, syscall.EAFNOSUPPORT)
}

// first returns the address to listen on for a name: its first IPv4 address, or else its
// first.
func (to target) first(ctx context.Context, resolver *net.Resolver) (netip.AddrPort, error) {
	addrs, err := to.resolve(ctx, resolver)
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

// open makes a handle of the socket on laddr: of ours, if there is one, or of a new one.
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
	if errno.IsOutOfResources(err) && t.flushes.GiveUp() > 0 {
		tcp, err = t.bind(laddr, r.load())
	}
	if err != nil {
		return nil, err
	}
	return t.register(tcp, laddr)
}

// bind makes a listening socket. It is exclusive, unless the user asks for Shared or our own
// listener on an overlapping address makes port sharing necessary.
func (t *Transport) bind(laddr listenAddr, now *snapshot) (*net.TCPListener, error) {
	if t.Shared {
		return listen(laddr, t.control().then(sockopt.SetReuse))
	}
	tcp, err := listen(laddr, t.control().then(t.exclusive))
	if err == nil || !errno.IsAddrInUse(err) || !now.overlaps(laddr) {
		return tcp, err
	}
	// A wildcard beside one of our specific addresses, or the reverse: the kernel
	// allows that only with the options of port sharing (TestWildcardBesideSpecific).
	tcp, err = listen(laddr, t.control().then(sockopt.SetReuse))
	if err != nil {
		return nil, err
	}
	t.warnUnguarded(laddr.String(), guardListening(tcp))
	return tcp, nil
}

// listenTries is how often listen tries while it loses races. Nobody may have won them.
const listenTries = 5

// listen is listenOnce, repeated after at most a few milliseconds if it lost a race.
func listen(laddr listenAddr, control controlFunc) (*net.TCPListener, error) {
	for try := 1; ; try++ {
		l, err := listenOnce(laddr, control)
		if err == nil || try == listenTries || !lostRace(err) {
			return l, err
		}
		time.Sleep(rand.N(time.Duration(try) * time.Millisecond))
	}
}

// lostRace reports whether bind succeeded and listen did not: another socket began to
// listen between the two. Linux marks both as listening before it checks either, so both
// may fail. That happened in 8 of 100,000 races, and in none with listenTries
// (TestTwoStartersOneWins runs 1,000). If the other socket has won, the next bind fails.
func lostRace(err error) bool {
	call, ok := errors.AsType[*os.SyscallError](err)
	return ok && call.Syscall == "listen" && errno.IsAddrInUse(call.Err)
}

// listenOnce is net.Listen with our options. A Multipath TCP socket, Go's default,
// does not pass later socket options on to the TCP sockets beneath it.
func listenOnce(laddr listenAddr, control controlFunc) (*net.TCPListener, error) {
	lc := net.ListenConfig{Control: control.then(presetKeepAlive), KeepAlive: sockopt.NetKeepAlive}
	lc.SetMultipathTCP(false)
	nw, address := netaddr.Network(laddr.Addr()), laddr.String()
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

// presetKeepAlive sets keep-alive on a socket before it listens, so that all connections
// inherit it, the first ones too. That saves four system calls for each
// (TestKeepAliveIsNets). SO_LINGER 0 would be inherited as well, but it would stay on a
// socket that is handed to a program which does not expect it. So Accept sets it.
func presetKeepAlive(_, _ string, c syscall.RawConn) error {
	if sockopt.NetKeepAlive >= 0 {
		return nil // package net sets it on each connection
	}
	return c.Control(keepAlive)
}

// register prepares a new socket for reuse and enters it. The caller holds registry.mu.
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
	return t.enter(tcp, sock), nil
}

// newSocket describes a listening socket.
func newSocket(tcp *net.TCPListener, raw syscall.RawConn) *socket {
	sock := &socket{laddr: listenAddr{AddrPort: netaddr.From(tcp.Addr())}}
	sock.laddr.dual = sock.laddr.Addr() == netip.IPv6Unspecified() && isDual(raw)
	return sock
}

// isDual reports whether a socket on [::] serves IPv4 too.
func isDual(raw syscall.RawConn) (dual bool) {
	err := withFD(raw, func(fd uintptr) error {
		v6only, err := sockopt.V6Only(fd)
		dual = !v6only
		return err
	})
	return err == nil && dual
}

// makeReusable lets our dials bind the port of an exclusive listener. It sets SO_REUSEPORT
// after listen and not before: had anybody else got in by then, listen would have failed
// (TestTwoStartersOneWins pins the order). Where the system refuses, the listener
// works without reuse.
func (t *Transport) makeReusable(laddr listenAddr, raw syscall.RawConn) bool {
	err := withFD(raw, func(fd uintptr) error { return sockopt.SetReusePort(fd, true) })
	if err != nil {
		t.log().Debug("no port reuse", "laddr", laddr.String(), "err", err)
	}
	return err == nil
}

// flatten makes bind on our port cost the same however many connections live on it
// (TestBindStaysFlat). sockopt.BindOnce says how. It fails if a stranger holds the port on
// some other address; dials work all the same.
func (t *Transport) flatten(laddr listenAddr) {
	if err := sockopt.BindOnce(laddr.Port()); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.log().Debug("bind may get slower with live connections", "laddr", laddr.String(), "err", err)
	}
}

// isForeign reports whether a listening socket of ours on port belongs to another user than this
// process has now, and warns once of each such socket.
func (t *Transport) isForeign(port uint16) (foreign bool) {
	for _, h := range t.registry.onPort(port) {
		foreign = t.checkOwner(h) || foreign
	}
	return foreign
}

// checkOwner is isForeign for one handle. Linux lets sockets share a port by SO_REUSEPORT only if
// they have the same owner, whatever privilege a process has.
func (t *Transport) checkOwner(h *handle) bool {
	raw, err := h.tcp.SyscallConn()
	if err != nil {
		return false
	}
	var owner uint32
	err = withFD(raw, func(fd uintptr) (err error) {
		owner, err = sockopt.Owner(fd)
		return err
	})
	if err != nil || owner == uint32(os.Geteuid()) {
		return false
	}
	h.socket.foreign.Do(func() {
		t.log().Warn("the listening socket belongs to another user: no dial can use its port",
			"laddr", h.tcp.Addr().String(), "owner", owner, "user", os.Geteuid())
	})
	return true
}

// duplicate makes another handle of a socket of ours. The caller holds registry.mu.
func (t *Transport) duplicate(sock *socket) (manet.Listener, error) {
	f, err := t.file(sock.handles[0])
	if err != nil {
		return nil, err
	}
	l, err := net.FileListener(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return t.enter(l.(*net.TCPListener), sock), nil
}

// enter makes a listener of a descriptor and enters its handle. The caller holds registry.mu.
func (t *Transport) enter(tcp *net.TCPListener, sock *socket) *Listener {
	l := newListener(t, tcp, sock)
	t.registry.add(&l.handle)
	return l
}

// WrapListener makes t dial from the port of a listener made elsewhere: by socket
// activation, handed over by an earlier process, or with an interface binding of its
// own. It sets SO_REUSEPORT on the socket, and nothing else that another process sharing
// the socket could notice: SO_LINGER 0 is set on each accepted connection. Where the
// system refuses SO_REUSEPORT, the listener works without reuse. Whether the port is
// exclusive was decided when tcp was bound: on Linux one that was made without
// SO_REUSEPORT stays exclusive as one of Listen is, by the same guard. On the BSDs and
// macOS a later listener of the same user, with SO_REUSEPORT, gets the connections.
//
// Linux lets this process dial from the port only if the socket belongs to its effective
// user: who made the socket, not who listens. A socket that root made, as systemd does for
// a unit with User= or a program before it drops root, is refused: dials fall back with
// the Cause ForeignOwner, and Logger gets one warning. Give it to the user first, with
// fchown(2) on the descriptor, while still root. That does not help a Multipath TCP
// socket, Go's default: its dials fall back with BindConflict. Make it with
// net.ListenConfig.SetMultipathTCP(false).
//
// tcp belongs to t from now on: closing the returned listener closes tcp. Other
// descriptors of the same socket, in this process or another, stay open. On error tcp is
// untouched and stays the caller's: it is nil (EINVAL) or closed (net.ErrClosed), or t
// is shut down (net.ErrClosed). Wrapping it again is an error (EINVAL), which leaves the first
// wrap as it is. If tcp is closed by itself, the dials that begin later leave it alone.
func (t *Transport) WrapListener(tcp *net.TCPListener) (manet.Listener, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, opError("wrap", "tcp", netip.AddrPort{}, netip.AddrPort{}, err)
	}
	t.registry.mu.Lock()
	defer t.registry.mu.Unlock()
	if t.registry.load().shut {
		return nil, errShutdown
	}
	if err := raw.Control(func(uintptr) {}); err != nil {
		return nil, err // closed
	}
	if t.registry.has(tcp) {
		return nil, opError("wrap", "tcp", netaddr.From(tcp.Addr()), netip.AddrPort{}, syscall.EINVAL)
	}
	sock := newSocket(tcp, raw)
	exclusive := isExclusive(raw) // as it came
	if sock.reusable = t.makeReusable(sock.laddr, raw); sock.reusable {
		if exclusive {
			t.warnUnguarded(sock.laddr.String(), guardWrapped(sock.laddr, raw))
		}
		t.flatten(sock.laddr)
	}
	l := newListener(t, tcp, sock)
	l.wrapped = raw
	t.registry.add(&l.handle)
	if os.Geteuid() != 0 { // root may be about to become the owner
		t.checkOwner(&l.handle)
	}
	return l, nil
}

// isExclusive reports whether a listening socket does not share its port. It reports false
// where the system does not tell.
func isExclusive(raw syscall.RawConn) (exclusive bool) {
	err := withFD(raw, func(fd uintptr) error {
		shared, err := sockopt.SharesPort(fd)
		exclusive = !shared
		return err
	})
	return err == nil && exclusive
}
