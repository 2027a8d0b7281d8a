package reuseport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"syscall"
	"time"

	"github.com/reusetransport/reuseport/internal/flush"
	"github.com/reusetransport/reuseport/internal/held"
	"github.com/reusetransport/reuseport/internal/pathhealth"
	"github.com/reusetransport/reuseport/internal/sourceaddr"
)

// Transport listens on TCP ports and dials from them.
//
// The zero value is ready to use. A Transport must not be copied, and its fields must
// not be changed after its first use. All methods are safe for concurrent use.
//
// Besides its listeners and pending closes, a Transport keeps at most two sockets open,
// on Linux, which it uses to ask the kernel for source addresses. Shutdown closes them,
// or else the garbage collector does. A process that changes its network namespace must do
// so before its first dial. One that changes its user must give its listening sockets to the
// new user first, see WrapListener.
type Transport struct {
	// PortUse says from which port a dial may leave. Zero is PreferReuse.
	// WithPortUse overrides it for one dial. A value that is none of the
	// constants makes every dial fail with ErrBadPortUse.
	PortUse PortUse

	// Shared lets other Transports and other processes of the same user listen on the
	// ports of this one, if they ask for it too (SO_REUSEPORT before bind). Linux and
	// FreeBSD 12 and later spread connections over all of them; on the other BSDs and
	// macOS the last one to bind gets them all.
	//
	// False, the default, makes Listen fail with EADDRINUSE if the port has a listener
	// already. A process of the same user that joins a port held exclusively succeeds on
	// Linux, and gets no connection.
	//
	// On Windows a port is reused only if Shared is set, because there exclusive
	// listening and reuse exclude each other.
	Shared bool

	// Control, if not nil, is called on every socket before it is bound, as
	// net.Dialer.Control and net.ListenConfig.Control are: for marks, interface binding
	// and the like. It is also called on the socket that asks the kernel for a source
	// address and sends nothing. That socket's network is "tcp4" or "tcp6" on Linux; it
	// is "udp4" or "udp6" elsewhere, for addresses with a zone, and where Linux has no
	// TCP Fast Open. An error of Control fails the dial or the listen. A second handle of a
	// listener is no new socket, and Control does not see it.
	//
	// Control may be called from several goroutines at once. It must not call Listen,
	// ListenPort, WrapListener, Punch or Shutdown of the same Transport, nor close its
	// listeners.
	Control func(network, address string, c syscall.RawConn) error

	// ControlContext is Control with the context of the dial. If it is not nil, dials
	// call it and not Control, as net.Dialer does; listeners go on calling Control.
	ControlContext func(ctx context.Context, network, address string, c syscall.RawConn) error

	// Timeout bounds a dial, with the look-up of its name, as net.Dialer.Timeout does.
	// Zero is no bound; a dial with a negative one fails at once. The error matches
	// context.DeadlineExceeded. It does not apply to Punch.
	Timeout time.Duration

	// FallbackDelay is how long a dial of a name waits for one address before it also
	// tries the next (RFC 8305). Zero is 250 ms. Negative tries one address after the
	// other, each with a share of the time that ctx leaves.
	FallbackDelay time.Duration

	// Resolver looks up names and services. Nil is net.DefaultResolver.
	Resolver *net.Resolver

	// KeepAliveConfig is for the connections that t dials and accepts. Unless its Enable is
	// true, they have package net's default: a probe after 15 s, then one every 15 s, 9 in
	// all.
	KeepAliveConfig net.KeepAliveConfig

	// Logger receives what operators want to know: dials that fell back (debug),
	// listeners that lost a safeguard or died (warn), paths that became blocked (warn)
	// and that recovered (info). State changes are logged once per transition. Nil is
	// silent.
	Logger *slog.Logger

	// HedgeDelay is how long the SYN of a dial from a listening port may stay unanswered
	// before a second dial, the hedge, starts from an ephemeral port. The first to
	// connect is the result. Zero is 1.25 s, negative is never. A dial with less than 3.1 s
	// left is hedged after two fifths of that time. Loopback and RequireReuse are not hedged.
	//
	// A handshake proves its path (source address and port, and near, private or global
	// targets) for 5 minutes. Then, and once 32 hedges and one more every 5 s were not
	// answered, a hedge waits until the first dial has sent its last SYN, after 3.05 s, so that
	// nobody gets more SYNs than from a plain dial (Linux, with 4.05 s left).
	//
	// The 2nd, 4th, 8th, … refusal in a row, with no handshake between, is tried from an
	// ephemeral port too.
	//
	// A host that answered a hedge is dialed from ephemeral ports and tried again every 30 s.
	// So is every host once 24 networks have one and no handshake came between. Stats.Paths
	// shows what is believed, and docs/architecture.md has the whole model.
	HedgeDelay time.Duration

	// FlushTimeout bounds how long Conn.Close looks after a connection. Zero is 5 s.
	// Negative makes every Close an Abort.
	//
	// While something is unacknowledged, it is how long the peer's TCP may answer
	// nothing; a peer that answers and takes no byte has a minute, or FlushTimeout if
	// that is longer. Once everything is acknowledged, it is how long the peer has had to
	// read, from the last byte sent on: 1 s at least and a minute at most, and until it
	// has sent 8 MiB. A peer that closes ends it. Then the close is left to the system,
	// which goes on as after package net's.
	//
	// Meanwhile a closed connection keeps a descriptor. At most 4096 connections of a
	// Transport do so, and at most an eighth of the descriptors that the process may have
	// (RLIMIT_NOFILE). One more leaves the oldest to the system. So does a Dial, a Listen,
	// an Accept or a Close that finds no descriptor free. None is kept while fewer than an eighth of
	// the process's descriptors are free.
	FlushTimeout time.Duration

	registry registry
	counters counters
	flushes  flush.Flusher
	health   pathhealth.Health
	punches  punchTable
	held     held.Table
	sources  sourceaddr.Asker
	nearby   sourceaddr.Neighbours
}

// What zero values stand for.
const (
	defaultHedgeDelay    = 1250 * time.Millisecond // after the SYN's first repeat
	defaultFlushTimeout  = 5 * time.Second
	defaultFallbackDelay = 250 * time.Millisecond
)

// UndeliveredError tells what the peers of closed connections had not acknowledged when
// Shutdown returned. The system goes on sending it. It unwraps to the error of the
// context, if that ended the wait.
type UndeliveredError struct {
	Conns int   // connections with data that the peer has not acknowledged
	Bytes int64 // their unacknowledged bytes, without those of connections whose count the system does not report

	err error
}

func (e *UndeliveredError) Error() string {
	s := fmt.Sprintf("reuseport: %d connections closed with %d bytes undelivered", e.Conns, e.Bytes)
	if e.err != nil {
		s += ": " + e.err.Error()
	}
	return s
}

// Unwrap returns context.Canceled, context.DeadlineExceeded, or nil.
func (e *UndeliveredError) Unwrap() error { return e.err }

// Shutdown closes every listener of t, ends the punches under way and waits until the
// peers have acknowledged everything that was written to closed connections (see
// Conn.Close). Later Listen and Dial calls fail with net.ErrClosed. Dials under way go on:
// end their contexts to end them. Connections stay open and belong to their users.
//
// The error joins what closing the listeners returned and an *UndeliveredError, if a
// close was left to the system with data unacknowledged while Shutdown waited, or ctx
// ended first. The closes that are still pending then go on. A second call waits again.
func (t *Transport) Shutdown(ctx context.Context) error {
	err := t.registry.shut()
	t.sources.Close()
	t.punches.stopAll()
	return errors.Join(err, t.awaitDelivery(ctx))
}

// awaitDelivery waits until the pending closes have delivered. One that waits only for its
// peer's end has.
func (t *Transport) awaitDelivery(ctx context.Context) error {
	left, err := t.flushes.Await(ctx)
	if left.Conns == 0 {
		return nil
	}
	return &UndeliveredError{Conns: left.Conns, Bytes: left.Bytes, err: err}
}

// Stats returns the counters of t. The result belongs to the caller.
func (t *Transport) Stats() Stats {
	t.listening() // those that were closed behind our back do not count
	s := Stats{
		DialsReused: t.counters.reused.Load(),
		DialsFailed: t.counters.failed.Load(),
		NewByCause:  make(map[Cause]uint64),
		DialLatency: t.counters.dialLatency(),

		Hedges:    t.counters.hedges.Load(),
		HandOvers: t.counters.handOvers.Load(),
		HedgeWins: t.counters.hedgeWins.Load(),
		Paths:     pathsOf(t.health.Paths()),

		Punched:       t.counters.punched.Load(),
		PunchesFailed: t.counters.punchesFailed.Load(),
		PunchSYNs:     t.counters.punchSYNs.Load(),

		Listeners:     int(t.registry.open.Load()),
		Accepted:      t.counters.accepted.Load(),
		AcceptSkipped: t.counters.acceptSkipped.Load(),
		AcceptDelayed: t.counters.acceptDelayed.Load(),
	}
	closes := t.flushes.Counts()
	s.ClosesPending, s.ClosesAborted, s.ClosesReset, s.BytesUndelivered = closes.Pending, closes.Left, closes.Reset, closes.Bytes
	s.CloseLatency = closeLatencyOf(t.flushes.Latencies())
	for c := range causes {
		if n := t.counters.newBy[c].Load(); n > 0 {
			s.NewByCause[c] = n
			s.DialsNew += n
		}
	}
	return s
}

// newConn wraps a connection of t.
func (t *Transport) newConn(tcp *net.TCPConn) *Conn {
	return &Conn{TCPConn: tcp, flusher: &t.flushes, stall: t.flushTimeout()}
}

// flushTimeout returns FlushTimeout, or its default.
func (t *Transport) flushTimeout() time.Duration { return cmp.Or(t.FlushTimeout, defaultFlushTimeout) }

// fallbackDelay returns FallbackDelay, or its default.
func (t *Transport) fallbackDelay() time.Duration {
	return cmp.Or(t.FallbackDelay, defaultFallbackDelay)
}

// resolver returns Resolver, or its default.
func (t *Transport) resolver() *net.Resolver { return cmp.Or(t.Resolver, net.DefaultResolver) }

// hedgeDelay returns HedgeDelay, or its default.
func (t *Transport) hedgeDelay() time.Duration { return cmp.Or(t.HedgeDelay, defaultHedgeDelay) }

func (t *Transport) log() *slog.Logger {
	if t.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return t.Logger
}
