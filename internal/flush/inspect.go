package flush

import (
	"errors"
	"io"
	"time"

	"github.com/reusetransport/reuseport/internal/errno"
	"github.com/reusetransport/reuseport/internal/sockopt"
)

// This file finds out how a closed connection stands, and discards what its peer still sends.

// inspect discards what a claimed connection has received and asks what is outstanding. It
// carries over the peer's end from earlier inspections, since a socket reports a reset only
// once.
func (f *Flusher) inspect(c *Closing, now time.Time) status {
	s := f.drain(c)
	s.finished, s.broken = s.finished || c.status.finished, s.broken || c.status.broken
	n, err := sockopt.Unacked(c.FD)
	switch {
	case err != nil:
		n = unknown
	case n <= sockopt.FINUnacked && c.Loopback && finSent(c.FD):
		n = 0 // only the FIN is outstanding, and on loopback it has arrived
	case n > 0 && (s.finished || s.flooded):
		// Reading does not show a reset that follows the peer's FIN (Linux), and after
		// maxDiscard bytes nothing is read. Shutdown shows it.
		s.broken = s.broken || errno.IsNotConnected(sockopt.ShutdownWrite(c.FD))
	}
	s.unacked = n
	if n == 0 {
		f.noteDelivery(c, now, &s)
	} else {
		s.silent = c.silence(s, now)
	}
	return s
}

// noteDelivery records once what a connection shows that has everything acknowledged. Where the
// system does not tell when bytes last left, it was at Close.
func (f *Flusher) noteDelivery(c *Closing, now time.Time, s *status) {
	if c.timed {
		return
	}
	c.timed = true
	took := now.Sub(c.closed)
	s.sinceSent, s.holdsTuple = took, c.FreeTuple
	if t, err := sockopt.TrafficOf(c.FD); err == nil {
		took -= t.SinceACK // what was acknowledged before Close takes no time
		s.sinceSent, s.holdsTuple = t.SinceSent, c.FreeTuple && !t.Timestamps
	}
	f.latencies.Delivered.Add(took)
}

// silence returns for how long the peer's TCP has answered nothing. A peer whose window is
// shut, or opens in steps, acknowledges no data for seconds and yet answers.
func (c *Closing) silence(s status, now time.Time) time.Duration {
	if t, err := sockopt.TrafficOf(c.FD); err == nil {
		return min(t.SinceACK, now.Sub(c.heard)) // silence before Close does not count
	}
	if s.received > 0 || s.unacked != c.status.unacked {
		c.heard = now
	}
	return now.Sub(c.heard)
}

// finSent reports whether our FIN has left. It reports true on systems that cannot tell.
func finSent(fd uintptr) bool {
	sent, err := sockopt.FINSent(fd)
	return sent || errors.Is(err, errors.ErrUnsupported)
}

// drain discards what has come in, 16 buffers at most, so that one connection does not keep
// the others waiting. After maxDiscard bytes it reads no more, which shuts the peer's window.
func (f *Flusher) drain(c *Closing) (s status) {
	for range 16 {
		if s.flooded = c.discarded >= maxDiscard; s.flooded {
			break
		}
		n, err := f.discard(c.FD)
		s.received += n
		c.discarded += n
		s.finished = err == io.EOF && peerEnded(c.FD)
		s.broken = err != nil && err != io.EOF
		if n == 0 || err != nil {
			break
		}
	}
	return s
}

// peerEnded reports whether the end of what can be read is the peer's own: after the user's
// CloseRead it is not. Where the system does not tell, it counts as the peer's.
func peerEnded(fd uintptr) bool {
	t, err := sockopt.TrafficOf(fd)
	return err != nil || t.PeerEnded
}

// DiscardAll discards what a connection that is being closed has received, up to
// maxAtOnce.
func (f *Flusher) DiscardAll(fd uintptr) {
	for sum := 0; sum < maxAtOnce; {
		n, err := f.discard(fd)
		if n == 0 || err != nil {
			return // it is empty, or the peer has ended, which the next inspection sees
		}
		sum += n
	}
}

// maxAtOnce is above the largest receive buffer that Linux gives by itself
// (net.ipv4.tcp_rmem).
const maxAtOnce = 16 << 20

// discard reads and discards what fits into one buffer, as sockopt.Discard does.
func (f *Flusher) discard(fd uintptr) (int, error) {
	buf, ok := f.buffers.Get().(*[]byte)
	if !ok {
		buf = new([]byte)
		*buf = make([]byte, 64<<10)
	}
	defer f.buffers.Put(buf)
	return sockopt.Discard(fd, *buf)
}
