package reuseport

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// Close closes the connection and loses nothing of what was written. It returns at
// once; behind it the system sends what is left and then a FIN, the peer reads the
// data and then EOF, and once the peer's TCP has acknowledged all of it the 4-tuple
// is free to be dialed again. What the peer sends meanwhile is discarded. A dial of
// the same Transport that needs the 4-tuple waits up to 1 s for the acknowledgement,
// and not for the peer's own end. Without TCP timestamps (RFC 7323) a 4-tuple whose
// peer closes too stays in TIME_WAIT.
//
// It gives up with a reset when the peer acknowledges nothing for
// Transport.FlushTimeout, or after 60 times that; Stats counts it. While it runs the
// process may exit: the kernel goes on. Where the system cannot tell what is
// acknowledged (Windows, OpenBSD, DragonFly, Solaris) it waits for the peer's FIN
// within FlushTimeout and leaves the rest to the kernel's own close. On AIX, Plan 9,
// js and WASI it is the system's close.
//
// For the caller it is net.TCPConn's Close: Read and Write that wait return
// net.ErrClosed, as all methods do from then on; deadlines have no part in it. A
// second Close returns net.ErrClosed. It needs no spare descriptor. See
// docs/close.md for what each way of closing costs, and Abort for the reset. Closing
// the embedded TCPConn itself skips all this.
func (c *Conn) Close() error {
	if !c.closed.CompareAndSwap(false, true) {
		return c.errClosed("close")
	}
	if c.t.FlushTimeout < 0 {
		return c.reset()
	}
	raw, err := c.TCPConn.SyscallConn()
	if err != nil {
		return err
	}
	if !canFlush || c.filed.Load() {
		return c.closePlain()
	}
	var way wayToClose
	var dup uintptr
	err = raw.Control(func(fd uintptr) { way, dup = c.prepareClose(fd) })
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
	c.t.flushes.add(c.closing(dup, nil))
	return err
}

// Abort closes the connection with a reset: what is unsent is discarded, the peer
// reads ECONNRESET, and the 4-tuple is free at once. After Close it returns
// net.ErrClosed and changes nothing.
func (c *Conn) Abort() error {
	if !c.closed.CompareAndSwap(false, true) {
		return c.errClosed("close")
	}
	return c.reset()
}

// SetLinger says what becomes of the 4-tuple, not of the data, which Close delivers
// in any case (Abort does not). Zero, which connections of a shared port have from
// the start: the tuple is free after delivery, and at once if the process dies
// without Close, which then loses data. Less than zero: the tuple stays in
// TIME_WAIT where TCP asks for it (RFC 9293, section 3.6), and the kernel delivers
// if the process dies. More than zero is the same; Close does not wait.
func (c *Conn) SetLinger(sec int) error {
	if sec > 0 {
		sec = -1 // the kernel's close would wait for the peer (TestCloseDoesNotLinger)
	}
	if err := c.TCPConn.SetLinger(sec); err != nil {
		return err
	}
	c.frees.Store(sec == 0)
	return nil
}

// File returns a duplicate of the descriptor, as net.TCPConn's File does: it belongs
// to the caller, closing it does not affect c, nor the reverse. From then on Close
// is the system's close without SO_LINGER 0, since the socket may outlive it: the
// kernel delivers, resets if inbound data is unread, and keeps the 4-tuple in
// TIME_WAIT where TCP asks for it; and Abort resets only with the last descriptor.
func (c *Conn) File() (*os.File, error) {
	c.filed.Store(true)
	if c.closed.Load() {
		return nil, c.errClosed("file") // Close may not have seen filed
	}
	return c.TCPConn.File()
}

func (c *Conn) reset() error {
	if !c.frees.Load() {
		if err := c.TCPConn.SetLinger(0); err != nil {
			return errors.Join(err, c.TCPConn.Close())
		}
	}
	return c.TCPConn.Close()
}

// Write is net.TCPConn's. A Write that runs beside Close on loopback may meet the FIN
// before the descriptor is closed; that EPIPE, too, is net.ErrClosed to the caller.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.TCPConn.Write(b)
	return n, c.writeError(err)
}

// ReadFrom is net.TCPConn's, sendfile included.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	n, err := c.TCPConn.ReadFrom(r)
	return n, c.writeError(err)
}

func (c *Conn) writeError(err error) error {
	if err == nil || !c.closed.Load() || !isBrokenPipe(err) {
		return err
	}
	return c.errClosed("write")
}

// closePlain is for systems where Close can do nothing better than the system, and
// for sockets that somebody else may go on using.
func (c *Conn) closePlain() error {
	if c.frees.Load() {
		if err := c.TCPConn.SetLinger(-1); err != nil {
			return errors.Join(err, c.TCPConn.Close())
		}
	}
	return c.TCPConn.Close()
}

// errClosed is what net.TCPConn returns after Close.
func (c *Conn) errClosed(op string) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: net.ErrClosed}
}

// wayToClose is how a connection can go.
type wayToClose int

const (
	closeNow   wayToClose = iota // nothing is outstanding
	closeLater                   // a duplicate of the descriptor lives on
	closeHeld                    // no descriptor is to be had: package net's lives on
)

// prepareClose finds the way. The user may still be reading and writing. For
// closeLater it returns the duplicate.
func (c *Conn) prepareClose(fd uintptr) (wayToClose, uintptr) {
	if way := c.wayAtOnce(fd); way != closeLater {
		return way, 0
	}
	dup, err := dupSocketFD(fd)
	if err != nil {
		return closeHeld, 0
	}
	return closeLater, dup
}

// wayAtOnce says whether close(2) can follow at once (closeNow), and has then sent the
// FIN. With SO_LINGER 0 a reset comes with it: the peer reads EOF, not ECONNRESET, and
// the 4-tuple is free at once.
func (c *Conn) wayAtOnce(fd uintptr) wayToClose {
	if c.frees.Load() && !c.mayReset(fd) {
		return closeLater
	}
	// Asked before the FIN too: a Write that waits would fail with EPIPE instead of
	// net.ErrClosed (TestCloseIsTCPConns).
	if !isQuiet(fd) || !endQuietly(fd) {
		return closeLater
	}
	return closeNow
}

// mayReset says whether a reset may follow on the heels of the FIN: on loopback, where
// no FIN is lost or overtaken, and if the peer knows of the connection. One that is
// still in connect would see it fail, with EPIPE (TestPeerInConnect).
func (c *Conn) mayReset(fd uintptr) bool {
	return c.isLocal() && (c.direction == Dialed && !c.punched || hasReceived(fd))
}

// isQuiet says whether nothing is on its way: all acknowledged, nothing unread.
func isQuiet(fd uintptr) bool {
	n, err := unacked(fd)
	return err == nil && n == 0 && !hasUnread(fd)
}

// endQuietly sends the FIN and says whether that alone is on its way. It goes before
// close(2): were the peer's first words to come between isQuiet and close, the reset
// for what is unread would find a peer that has our end (TestCloseMeetsFirstWords).
// What was written beside Close has gone before the FIN.
func endQuietly(fd uintptr) bool {
	if shutdownWrite(fd) != nil {
		return false
	}
	n, err := unacked(fd)
	return err == nil && n <= finUnacked && finSent(fd)
}

// isLocal says whether the peer is on loopback.
func (c *Conn) isLocal() bool {
	raddr, ok := c.RemoteAddr().(*net.TCPAddr)
	return ok && raddr.IP.IsLoopback()
}

// hold keeps package net from closing a descriptor.
type hold struct {
	end  chan struct{} // closed to let it go
	gone chan error    // of the Control that holds it
}

// release lets the descriptor go and returns when it is closed: the last to leave a
// closed descriptor of package net closes it.
func (h *hold) release() {
	close(h.end)
	<-h.gone
}

// closeHolding closes without a further descriptor: a goroutine keeps package net
// from closing the one there is, while another is stuck in TCPConn.Close, which ends
// the user's calls at once and then waits for the first.
func (c *Conn) closeHolding(raw syscall.RawConn) error {
	fd := make(chan uintptr)
	h := &hold{end: make(chan struct{}), gone: make(chan error, 1)}
	go func() {
		h.gone <- raw.Control(func(s uintptr) {
			fd <- s
			<-h.end
		})
	}()
	select {
	case s := <-fd:
		go c.TCPConn.Close() // its error would be that of close(2) long after
		for raw.Control(func(uintptr) {}) == nil {
			time.Sleep(time.Millisecond / 16) // until TCPConn.Close has begun
		}
		c.t.flushes.add(c.closing(s, h))
		return nil
	case err := <-h.gone:
		return err
	}
}

// closing describes the connection for the flusher.
func (c *Conn) closing(fd uintptr, h *hold) *closing {
	return &closing{
		laddr: netAddr(c.LocalAddr()), raddr: netAddr(c.RemoteAddr()),
		fd: fd, hold: h, frees: c.frees.Load(), local: c.isLocal(),
		progress: newProgress(time.Now(), c.t.flushTimeout()),
		look:     look{unacked: unknownUnacked},
	}
}

// flushTimeout is FlushTimeout with its default.
func (t *Transport) flushTimeout() time.Duration {
	if t.FlushTimeout == 0 {
		return defaultFlushTimeout
	}
	return t.FlushTimeout
}
