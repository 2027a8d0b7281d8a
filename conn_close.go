package reuseport

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/reusetransport/reuseport/internal/errno"
	"github.com/reusetransport/reuseport/internal/flush"
	"github.com/reusetransport/reuseport/internal/netaddr"
	"github.com/reusetransport/reuseport/internal/sockopt"
)

// Close closes the connection and loses nothing of what was written. It returns at once.
// Behind it the system sends what is left and then a FIN, and the peer reads the data
// and then EOF. Once the peer's TCP has acknowledged everything, the 4-tuple is free to
// be dialed again. What the peer sends meanwhile is discarded. A dial of the same
// Transport that needs the 4-tuple waits up to 1 s for the acknowledgement, and not for
// the peer's own end. Without TCP timestamps (RFC 7323) a 4-tuple whose peer closes too
// stays in TIME_WAIT.
//
// Close gives up with a reset when the peer acknowledges nothing for
// Transport.FlushTimeout, or after 60 times that; Stats counts it. The process may exit
// meanwhile: the kernel goes on. Where the system cannot tell what is acknowledged
// (Windows, OpenBSD, DragonFly, Solaris), Close waits for the peer's FIN within
// FlushTimeout and leaves the rest to the kernel's own close. On AIX, Plan 9, js and
// WASI it is the system's close.
//
// To the caller it is net.TCPConn's Close: a Read or Write that waits returns
// net.ErrClosed, as all methods do from then on, and deadlines have no part in it. A
// second Close returns net.ErrClosed. Close needs no spare descriptor. See docs/close.md
// for what each way of closing costs, and Abort for the reset. Closing the embedded
// TCPConn itself skips all this.
func (c *Conn) Close() error {
	if !c.set(isClosed) {
		return c.closedError("close")
	}
	if c.stall < 0 {
		return c.reset()
	}
	raw, err := c.TCPConn.SyscallConn()
	if err != nil {
		return err
	}
	if !sockopt.CanFlush || c.is(isFiled) {
		return c.closePlain()
	}
	var way wayToClose
	var dup uintptr
	err = raw.Control(func(fd uintptr) { way, dup = c.beginClose(fd) })
	if err != nil {
		return c.TCPConn.Close() // the embedded connection was closed already
	}
	switch way {
	case closeNow:
		return c.TCPConn.Close()
	case closeHeld:
		return c.closeHolding(raw)
	}
	err = c.TCPConn.Close()
	c.flusher.Add(c.closing(dup, nil))
	return err
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
// Zero frees the tuple after delivery, and at once if the process dies without Close,
// which then loses data. Connections that use a listening port start with zero. Less
// than zero leaves the tuple in TIME_WAIT where TCP asks for it (RFC 9293, section 3.6),
// and the kernel delivers if the process dies. More than zero is the same as less than
// zero: Close does not wait.
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

// File returns a duplicate of the descriptor, as net.TCPConn's File does. It belongs to
// the caller: closing it does not affect c, and closing c does not affect it. Because
// the socket may outlive Close from then on, Close becomes the system's close without
// SO_LINGER 0: the kernel delivers, resets if inbound data is unread, and keeps the
// 4-tuple in TIME_WAIT where TCP asks for it. Abort then resets only with the last
// descriptor.
func (c *Conn) File() (*os.File, error) {
	c.set(isFiled)
	if c.is(isClosed) {
		return nil, c.closedError("file") // Close may not have seen isFiled
	}
	return c.TCPConn.File()
}

func (c *Conn) reset() error {
	if !c.is(lingersZero) {
		if err := c.TCPConn.SetLinger(0); err != nil {
			return errors.Join(err, c.TCPConn.Close())
		}
	}
	return c.TCPConn.Close()
}

// Write is net.TCPConn's Write. If it runs beside Close on loopback, it may meet the FIN
// before the descriptor is closed; it returns net.ErrClosed for that EPIPE too.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.TCPConn.Write(b)
	return n, c.writeError(err)
}

// ReadFrom is net.TCPConn's ReadFrom, sendfile included.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	n, err := c.TCPConn.ReadFrom(r)
	return n, c.writeError(err)
}

func (c *Conn) writeError(err error) error {
	if err == nil || !c.is(isClosed) || !errno.IsBrokenPipe(err) {
		return err
	}
	return c.closedError("write")
}

// closePlain is for systems where Close can do nothing better than the system, and
// for sockets that somebody else may go on using.
func (c *Conn) closePlain() error {
	if c.is(lingersZero) {
		if err := c.TCPConn.SetLinger(-1); err != nil {
			return errors.Join(err, c.TCPConn.Close())
		}
	}
	return c.TCPConn.Close()
}

// closedError is what net.TCPConn returns after Close.
func (c *Conn) closedError(op string) error {
	return opError(op, "tcp", netaddr.From(c.LocalAddr()), netaddr.From(c.RemoteAddr()), net.ErrClosed)
}

// wayToClose is how a connection can go.
type wayToClose int

const (
	closeNow   wayToClose = iota // nothing is outstanding
	closeLater                   // a duplicate of the descriptor lives on
	closeHeld                    // no descriptor is to be had: package net's lives on
)

// beginClose finds the way, and sends the FIN for closeNow. The user may still be reading
// and writing. For closeLater it returns the duplicate.
func (c *Conn) beginClose(fd uintptr) (wayToClose, uintptr) {
	if c.mayCloseNow(fd) && endQuietly(fd) {
		return closeNow, 0
	}
	dup, err := sockopt.Dup(fd)
	if err != nil {
		return closeHeld, 0
	}
	return closeLater, dup
}

// mayCloseNow reports whether close(2) may follow right after the FIN. With SO_LINGER 0 a
// reset comes with it: the peer reads EOF, not ECONNRESET, and the 4-tuple is free at once.
// What is on its way is asked before the FIN too: a Write that waits would fail with EPIPE
// instead of net.ErrClosed (TestCloseIsTCPConns).
func (c *Conn) mayCloseNow(fd uintptr) bool {
	return (!c.is(lingersZero) || c.mayReset(fd)) && isQuiet(fd)
}

// mayReset reports whether a reset may follow on the heels of the FIN: on loopback, where
// no FIN is lost or overtaken, and if the peer knows of the connection. A peer that is still
// in connect would see that fail, with EPIPE (TestPeerInConnect).
func (c *Conn) mayReset(fd uintptr) bool {
	if !c.isLoopback() {
		return false
	}
	if c.direction == Dialed && !c.punched {
		return true
	}
	received, err := sockopt.HasReceived(fd)
	return err == nil && received
}

// isQuiet reports whether nothing is on its way: all acknowledged, nothing unread. Where the
// system cannot tell, the long way finds out.
func isQuiet(fd uintptr) bool {
	n, err := sockopt.Unacked(fd)
	if err != nil || n > 0 {
		return false
	}
	unread, err := sockopt.HasUnread(fd)
	return err == nil && !unread
}

// endQuietly sends the FIN and reports whether that alone is on its way. It goes before
// close(2): were the peer's first words to come between isQuiet and close, the reset for
// what is unread would find a peer that has our end (TestCloseMeetsFirstWords). What was
// written beside Close has gone before the FIN. Where the system cannot tell whether the
// FIN has left, it counts nothing for one.
func endQuietly(fd uintptr) bool {
	if sockopt.ShutdownWrite(fd) != nil {
		return false
	}
	n, err := sockopt.Unacked(fd)
	if err != nil || n > sockopt.FINUnacked {
		return false
	}
	sent, err := sockopt.FINSent(fd)
	return sent || errors.Is(err, errors.ErrUnsupported)
}

// isLoopback reports whether the peer is on loopback.
func (c *Conn) isLoopback() bool {
	raddr, ok := c.RemoteAddr().(*net.TCPAddr)
	return ok && raddr.IP.IsLoopback()
}

// closeHolding closes without a further descriptor: a Hold keeps package net from closing
// the one there is, while a goroutine is stuck in TCPConn.Close, which ends the user's calls
// at once and then waits for the Hold.
func (c *Conn) closeHolding(raw syscall.RawConn) error {
	hold, fd, err := flush.NewHold(raw)
	if err != nil {
		return err
	}
	go c.TCPConn.Close() // its error would be that of close(2) long after
	for raw.Control(func(uintptr) {}) == nil {
		time.Sleep(time.Millisecond / 16) // until TCPConn.Close has begun
	}
	c.flusher.Add(c.closing(fd, hold))
	return nil
}

// closing describes the connection for the flusher.
func (c *Conn) closing(fd uintptr, hold *flush.Hold) *flush.Closing {
	return &flush.Closing{
		Laddr: netaddr.From(c.LocalAddr()), Raddr: netaddr.From(c.RemoteAddr()),
		FD: fd, Hold: hold, FreeTuple: c.is(lingersZero), Loopback: c.isLoopback(), Stall: c.stall,
	}
}
