package reuseport

import (
	"errors"
	"net"
	"os"

	"github.com/reusetransport/reuseport/internal/flush"
	"github.com/reusetransport/reuseport/internal/netaddr"
	"github.com/reusetransport/reuseport/internal/sockopt"
)

// Close closes the connection as net.TCPConn's Close does, but for two things. It discards what the peer has sent and nobody has read, and what the peer still
// sends, where the system would reset the connection and so cut off what was written.
// And it frees the 4-tuple for a dial that needs it.
//
// Close does not wait. The system sends what is left and then a FIN, and the peer reads
// the data and then EOF. No reset reaches a peer that has not closed, but in these
// cases: a dial of the same Transport needs the 4-tuple, and the peer has acknowledged
// everything; Abort was called; or the peer sends on after Close has stopped looking
// after the connection, as it does after package net's close. Such a dial waits up to 1
// s for the acknowledgement, and not for the peer's own end. Without TCP timestamps (RFC
// 7323) a 4-tuple whose peer closes too stays in TIME_WAIT.
//
// Transport.FlushTimeout says for how long Close looks after a connection, and at what
// cost. When that ends, or when the process exits after Close, the system goes on. A
// process that exits without Close resets its connections. On Windows, AIX, Plan 9, js
// and WASI Close is the system's close from the start; Windows discards what is unread.
//
// To the caller it is net.TCPConn's Close: a Read or Write that waits returns
// net.ErrClosed, as all methods do from then on, and deadlines have no part in it. A
// second Close returns net.ErrClosed. Close needs no spare descriptor. A duplicate of the
// descriptor made through SyscallConn cannot write after Close; File makes one that can.
// docs/close.md has what each peer sees. Closing the embedded TCPConn itself skips all
// this.
func (c *Conn) Close() error {
	if !c.set(isClosed) {
		return c.closedError("close")
	}
	if c.stall < 0 {
		return c.reset()
	}
	if c.is(lingersZero) {
		// It fails where the connection is gone. Where the system denies it only now, after it
		// let SO_LINGER 0 be set, close(2) resets.
		_ = c.TCPConn.SetLinger(-1)
	}
	if c.is(isFiled) {
		return c.TCPConn.Close()
	}
	raw, err := c.TCPConn.SyscallConn()
	if err != nil {
		return err
	}
	var kept *flush.Closing
	err = raw.Control(func(fd uintptr) { kept = c.keep(fd) })
	if err != nil {
		return c.TCPConn.Close() // the embedded connection was closed already
	}
	if kept == nil {
		c.flusher.Note(netaddr.From(c.LocalAddr()), netaddr.From(c.RemoteAddr()))
		return c.TCPConn.Close()
	}
	err = c.TCPConn.Close()
	c.flusher.Add(kept)
	return err
}

// keep discards what nobody has read, because close(2) would reset for it, and duplicates the
// descriptor for the Flusher. It returns nil if the system's close can do the rest, or if no
// descriptor is to be had.
func (c *Conn) keep(fd uintptr) *flush.Closing {
	if c.isServed() && isOver(fd) {
		return nil
	}
	c.flusher.DiscardAll(fd)
	dup, ok := c.flusher.Dup(fd)
	if !ok {
		return nil
	}
	return &flush.Closing{
		Laddr: netaddr.From(c.LocalAddr()), Raddr: netaddr.From(c.RemoteAddr()),
		FD: dup, FreeTuple: c.is(lingersZero), Loopback: c.isLoopback(), Stall: c.stall,
	}
}

// isServed reports whether this is a server's connection to a client on loopback. Such a
// 4-tuple is rarely dialed, and a server under load closes thousands a second: the 8 us that
// a second descriptor costs are a fifth of what such a server spends on a request.
func (c *Conn) isServed() bool { return c.direction == Accepted && !c.punched && c.isLoopback() }

// isOver reports whether the system's close can finish a connection on loopback: all that was
// written has been sent, which on loopback means that it has arrived; nothing is unread; and
// TCP timestamps are on. Without timestamps a dial cannot have a 4-tuple in FIN_WAIT or
// TIME_WAIT; only the Flusher, with a descriptor, can free it.
//
// A peer that has not spoken yet may do so now, and would be reset for it. Then it could lose
// what was written, so the system gets such a connection only if nothing was.
func isOver(fd uintptr) bool {
	t, err := sockopt.TrafficOf(fd)
	if err != nil || !t.AllSent || !t.Timestamps {
		return false
	}
	if !t.Received {
		return !t.Written
	}
	unread, err := sockopt.HasUnread(fd) // the peer may be in the middle of what it sends
	return err == nil && !unread
}

// isLoopback reports whether the peer is on loopback.
func (c *Conn) isLoopback() bool {
	raddr, ok := c.RemoteAddr().(*net.TCPAddr)
	return ok && raddr.IP.IsLoopback()
}

// Abort closes the connection with a reset: what is unsent is discarded, the peer reads
// ECONNRESET, and the 4-tuple is free at once. After Close it returns net.ErrClosed and
// changes nothing.
func (c *Conn) Abort() error {
	if !c.set(isClosed) {
		return c.closedError("close")
	}
	return c.reset()
}

// SetLinger decides what becomes of the 4-tuple, not of the data, which Close delivers
// in any case (Abort does not).
//
// Zero lets a dial that needs the tuple have it as soon as everything is delivered, and
// frees it at once if the process dies without Close, which then loses data. Connections
// that use a listening port start with zero. Less than zero leaves the tuple to the
// system, and the system delivers if the process dies. More than zero is the same as
// less than zero: Close does not wait.
func (c *Conn) SetLinger(sec int) error {
	if sec > 0 {
		sec = -1 // the kernel's close would wait for the peer (TestCloseDoesNotLinger)
	}
	if err := c.TCPConn.SetLinger(sec); err != nil {
		return err
	}
	if sec == 0 {
		c.state.Or(lingersZero)
	} else {
		c.state.And(^lingersZero)
	}
	return nil
}

// File returns a duplicate of the descriptor, in non-blocking mode, so that Close of the
// file ends its Read. It belongs to the caller: closing it does not affect c, and closing c
// does not affect it. Because the socket may outlive Close from then on, and go to a program
// that knows nothing of this package, File turns SO_LINGER 0 off: a close in either place is
// the system's. It delivers, resets if inbound data is unread, and keeps the 4-tuple in
// TIME_WAIT where TCP asks for it. Abort then resets only with the last descriptor. On
// Windows, AIX, Plan 9, js and WASI it is net.TCPConn's File.
func (c *Conn) File() (*os.File, error) {
	c.set(isFiled)
	if c.is(isClosed) {
		return nil, c.closedError("file") // Close may not have seen isFiled
	}
	if c.is(lingersZero) {
		if err := c.SetLinger(-1); err != nil {
			return nil, err
		}
	}
	raw, err := c.TCPConn.SyscallConn()
	if err != nil {
		return nil, err
	}
	f, err := fileOf(raw, "connection")
	if errors.Is(err, errors.ErrUnsupported) {
		return c.TCPConn.File()
	}
	return f, err
}

// LimitPendingCloses bounds how many closed connections of the whole Transport of c keep a
// descriptor, below the bounds that Transport.FlushTimeout names. Package serve, which has connections
// and no Transport, calls it with a share of its MaxConns. Zero and less count as one.
func (c *Conn) LimitPendingCloses(n int) { c.flusher.Limit(n) }

func (c *Conn) reset() error {
	if !c.is(lingersZero) {
		if err := c.TCPConn.SetLinger(0); err != nil {
			return errors.Join(err, c.TCPConn.Close())
		}
	}
	return c.TCPConn.Close()
}

// closedError returns the error that net.TCPConn's methods return after Close.
func (c *Conn) closedError(op string) error {
	return opError(op, "tcp", netaddr.From(c.LocalAddr()), netaddr.From(c.RemoteAddr()), net.ErrClosed)
}
