package reuseport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Transport listens on TCP ports and dials from them.
//
// The zero value is ready. A Transport must not be copied, and its fields must
// not be changed after its first use. All methods are safe for concurrent use. What
// it keeps open besides its listeners and pending closes is at most two sockets, on
// Linux, that have asked for source addresses; Shutdown closes them, or else the
// garbage collector. A process that changes its user or network namespace does so
// before its first dial.
type Transport struct {
	// PortUse says from which port a dial may leave. Zero is PreferReuse.
	// WithPortUse overrides it for one dial. A value that is none of the
	// constants makes every dial fail with ErrBadPortUse.
	PortUse PortUse

	// Shared lets other Transports and other processes of the same user listen
	// on the ports of this one, if they ask for it too (SO_REUSEPORT before
	// bind). Linux spreads connections over all who share; FreeBSD 12 and later
	// does so too; on other BSDs and macOS the last who bound gets them all.
	// False, the default, makes Listen fail with EADDRINUSE where somebody
	// listens already; joining a port that somebody holds exclusively succeeds on
	// Linux for the same user and gets no connection. On Windows a port is reused only if Shared is set, since
	// there exclusive listening and reuse exclude each other.
	Shared bool

	// Control, if not nil, is called on every socket before it is bound, as
	// net.Dialer.Control and net.ListenConfig.Control are: for marks, interface
	// binding and the like. It is also called on a socket that asks the kernel
	// for a source address and sends nothing (network "tcp4" or "tcp6" on Linux,
	// "udp4" or "udp6" elsewhere, for addresses with a zone, and where Linux has
	// no TCP Fast Open). Its error is the answer of the dial or the listen. It may
	// be called from several goroutines at once, and must not call Listen,
	// ListenPort, WrapListener, Punch or Shutdown of the same Transport, nor close
	// its listeners.
	Control func(network, address string, c syscall.RawConn) error

	// Logger receives what operators want to know: dials that fell back (debug),
	// listeners that lost a safeguard or died (warn), paths that turned blocked
	// (warn) and recovered (info), each once a turn. Nil is silent.
	Logger *slog.Logger

	// HedgeDelay is how long the SYN of a dial from a listening port may stay
	// unanswered before a second dial, the hedge, starts from an ephemeral port;
	// the first to connect is the result. Zero is 1 s, negative is never.
	//
	// A hedge starts only towards global addresses, under PreferReuse, and while
	// the path (source address and port) is unproven: a completed handshake
	// proves it for 5 minutes, except towards hosts that have answered a hedge
	// before. The delay has to outlast the jitter of a path, not its round trip,
	// since the listening port's SYN stays ahead. A Transport starts at most 32
	// hedges and one more every 5 s, not counting those that won; each sends the
	// SYNs of a plain dial. A host that answered a hedge and not the listening port is dialed from an
	// ephemeral port for 30 s, and then tried again. Each network (/16, in IPv6
	// /32) with such a host halves the delay, down to an eighth; 24 of them with
	// no handshake between block the path: dials leave from ephemeral ports, but
	// for one in 30 s that tries the listening port again. One handshake ends the
	// block, and 10 minutes without news end it too. See Stats.Paths.
	HedgeDelay time.Duration

	// FlushTimeout bounds what Conn.Close leaves behind: how long the peer may
	// acknowledge nothing of what was written before the connection is reset and
	// the rest is lost. Zero is 5 s. A close that makes progress all the time may
	// take 60 times as long. Negative makes every Close an Abort. At most 4096
	// closes are pending at once, then the oldest is aborted, and 256 MiB are read
	// and discarded for one, then its peer is kept waiting.
	FlushTimeout time.Duration

	registry registry
	counters counters
	flushes  flusher
	health   health
	punches  punches
	askers   askers
}

var (
	// ErrWrongProto says that a multiaddr is not one of /ip4, /ip6,
	// /ip6zone/…/ip6, /dns, /dns4 or /dns6 followed by /tcp and nothing else, or
	// that a network is not "tcp", "tcp4" or "tcp6".
	ErrWrongProto = errors.New("reuseport: not a TCP address")

	// ErrNoReuse says that no listener's port could be used, where RequireReuse or
	// Punch needs one.
	ErrNoReuse = errors.New("reuseport: no listening port to dial from")

	// ErrTupleInUse says that RequireReuse or Punch needs the 4-tuple of listening
	// port and remote address, and it belongs to another connection, which may be
	// one that the peer is opening right now.
	ErrTupleInUse = errors.New("reuseport: 4-tuple in use")

	// ErrBadPortUse says that a PortUse is none of the constants.
	ErrBadPortUse = errors.New("reuseport: invalid PortUse")

	// errShutdown is what Listen and Dial return after Shutdown.
	errShutdown = fmt.Errorf("reuseport: transport is shut down: %w", net.ErrClosed)
)

// Shutdown closes every listener of t, ends the punches under way and waits until
// what was written to closed connections has been delivered (see Conn.Close), and
// about 1 s more, at most, for peers that have all and do not close. Later Listen and
// Dial calls fail with net.ErrClosed; connections stay open and belong to their users.
// The error joins what closing the listeners returned and an *UndeliveredError, if a pending
// close was cut while Shutdown waited or ctx ended first; the closes then still
// pending go on. A second call waits again.
func (t *Transport) Shutdown(ctx context.Context) error {
	var errs []error
	for _, l := range t.registry.shut() {
		if err := l.closeSocket(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	t.askers.close()
	t.punches.shut()
	return errors.Join(append(errs, t.flushes.await(ctx))...)
}

func (t *Transport) log() *slog.Logger {
	if t.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return t.Logger
}

// socket is one listening socket. Its handles are listeners whose descriptors
// are duplicates of one another, so that closing one loses no connection.
type socket struct {
	laddr    listenAddr
	asked    listenAddr // what Listen was asked for, where that is not laddr (ListenPort without IPv6)
	reusable bool       // dials may bind its port
	lingers  bool       // what it accepts has SO_LINGER 0 already
	handles  []*listener
	queue    acceptQueue
}

// snapshot is the state of the registry at one moment. It is never changed once
// published, so that a dial reads it without a lock.
type snapshot struct {
	sockets []*socket
	addrs   []listenAddr // of the reusable sockets, oldest first
	shut    bool
}

// registry keeps the listeners of a Transport. Writers hold mu and publish a new
// snapshot; readers load the current one.
type registry struct {
	mu      sync.Mutex
	current atomic.Pointer[snapshot]
	open    atomic.Int64 // handles
}

func (r *registry) load() *snapshot {
	if s := r.current.Load(); s != nil {
		return s
	}
	return &snapshot{}
}

// publish makes sockets the current state. The caller holds mu.
func (r *registry) publish(sockets []*socket, shut bool) {
	s := &snapshot{sockets: sockets, shut: shut}
	for _, sock := range sockets {
		if sock.reusable {
			s.addrs = append(s.addrs, sock.laddr)
		}
	}
	r.current.Store(s)
}

// find returns our socket on exactly laddr, or nil. Port 0 is nobody's. A dual-stack
// socket is also that of [::] alone, for which a second one would get nothing.
func (s *snapshot) find(laddr listenAddr) *socket {
	i := slices.IndexFunc(s.sockets, func(sock *socket) bool {
		return sock.laddr == laddr || sock.asked == laddr && laddr.Port() != 0 ||
			sock.laddr.dual && sock.laddr.AddrPort == laddr.AddrPort
	})
	if i < 0 {
		return nil
	}
	return s.sockets[i]
}

// overlaps says whether one of our sockets holds laddr's port on an address
// that includes laddr or is included in it.
func (s *snapshot) overlaps(laddr listenAddr) bool {
	return slices.ContainsFunc(s.sockets, func(sock *socket) bool { return sock.laddr.overlaps(laddr) })
}

// mixes says whether dials will bind laddr's port on several addresses or in both
// families, one of our other listeners on that port included.
func (s *snapshot) mixes(laddr listenAddr) bool {
	return laddr.dual || slices.ContainsFunc(s.sockets, func(sock *socket) bool { return sock.laddr.Port() == laddr.Port() })
}

// without returns a copy of the sockets that lacks sock.
func (s *snapshot) without(sock *socket) []*socket {
	var rest []*socket
	for _, other := range s.sockets {
		if other != sock {
			rest = append(rest, other)
		}
	}
	return rest
}

// add enters a socket with its first handle. The caller holds mu.
func (r *registry) add(sock *socket, l *listener) {
	sock.handles = []*listener{l}
	r.open.Add(1)
	r.publish(append(slices.Clone(r.load().sockets), sock), false)
}

// remove takes a handle out, and its socket with the last one. It reports false
// if the handle was not there any more. With all it takes out the other handles of
// the socket, too.
func (r *registry) remove(l *listener, all bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	removed := r.drop(l)
	for all && len(l.socket.handles) > 0 {
		r.drop(l.socket.handles[0])
	}
	return removed
}

// close removes a handle and closes it before anybody else may listen: a socket
// that is out of the registry and still open would make that a bind conflict
// (TestListenWhileClosing).
func (r *registry) close(l *listener) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(l)
	return l.tcp.Close()
}

// drop is remove for a caller that holds mu.
func (r *registry) drop(l *listener) bool {
	i := slices.Index(l.socket.handles, l)
	if i < 0 {
		return false
	}
	l.socket.handles = slices.Delete(l.socket.handles, i, i+1)
	r.open.Add(-1)
	if len(l.socket.handles) > 0 {
		return true
	}
	now := r.load()
	r.publish(now.without(l.socket), now.shut)
	return true
}

// shut empties the registry for good and returns the handles it held.
func (r *registry) shut() []*listener {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []*listener
	for _, sock := range r.load().sockets {
		all = append(all, sock.handles...)
		sock.handles = nil
	}
	r.open.Store(0)
	r.publish(nil, true)
	return all
}
