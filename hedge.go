package reuseport

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/reusetransport/reuseport/internal/errno"
)

// This file races two dials. When the second may start is decided in health_dial.go.

// hedgeDials are the two dials that hedged races.
type hedgeDials interface {
	first(ctx context.Context) (*net.TCPConn, error)
	second(ctx context.Context) (*net.TCPConn, error)

	// isConnected says what the system knows of first's socket.
	isConnected() bool

	// endsEarly reports whether first gives up before ctx does (ETIMEDOUT), and second goes on alone.
	endsEarly() bool
}

// hedged dials by first and, if that is unanswered for headStart, by second too. Whichever
// connects first is the result, and the other one is closed. If both have connected, the
// result is that of first. A second that returns errNotHedged is ignored.
func hedged(ctx context.Context, headStart time.Duration, by hedgeDials) (tcp *net.TCPConn, bySecond bool, err error) {
	firstCtx, stopFirst := context.WithCancel(ctx)
	defer stopFirst()
	h := &hedge{hedgeDials: by, ctx: ctx, stopFirst: stopFirst, finished: make(chan struct{})}
	timer := time.AfterFunc(headStart, h.run)
	defer timer.Stop()
	tcp, err = by.first(firstCtx)
	if by.endsEarly() && errno.IsTimedOut(err) && ctx.Err() == nil && !timer.Stop() {
		<-h.finished
	}
	return h.settle(tcp, err)
}

// A hedge is a second dial that runs beside the first.
type hedge struct {
	hedgeDials
	ctx       context.Context // of the whole dial
	stopFirst context.CancelFunc
	finished  chan struct{} // closed when second has ended, or was not worth a start

	mu   sync.Mutex
	stop context.CancelFunc // ends second; nil before it starts
	over bool               // the dial has its result; a connection of second is closed
	tcp  *net.TCPConn
	err  error
}

// run makes the second dial, on a goroutine of its own.
func (h *hedge) run() {
	defer close(h.finished)
	ctx, stop := context.WithCancel(h.ctx)
	defer stop()
	if h.begin(stop) {
		h.done(h.second(ctx))
	}
}

// begin lets settle end the second dial. It reports whether that dial may start, which is not
// so once the first has brought the result.
func (h *hedge) begin(stop context.CancelFunc) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stop = stop
	return !h.over
}

// done takes the result of the second dial. A connection ends the first dial, unless that is
// connected too and about to say so. So does a refusal, because it is the peer's answer. After
// any other error the first dial goes on.
func (h *hedge) done(tcp *net.TCPConn, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over || tcp != nil && h.isConnected() {
		closeLoser(tcp)
		return
	}
	if !errors.Is(err, errNotHedged) {
		h.tcp, h.err = tcp, err
	}
	if tcp != nil || errno.IsRefused(err) {
		h.stopFirst()
	}
}

// settle ends the second dial and chooses between the two.
func (h *hedge) settle(tcp *net.TCPConn, err error) (_ *net.TCPConn, bySecond bool, _ error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	if h.stop != nil {
		h.stop()
	}
	switch {
	case tcp != nil:
		closeLoser(h.tcp)
		return tcp, false, nil
	case h.tcp != nil:
		return h.tcp, true, nil
	case h.err == nil:
		return nil, false, err
	case errno.IsRefused(h.err), h.endsEarly() && errno.IsTimedOut(err):
		return nil, false, h.err
	case errors.Is(h.err, context.DeadlineExceeded):
		return nil, false, err // both were unanswered, which is one failure
	}
	return nil, false, failures(err, h.err)
}

// closeLoser closes a connection that is no longer wanted, with a FIN: its port is an
// ephemeral one, so TIME_WAIT is in nobody's way.
func closeLoser(tcp *net.TCPConn) {
	if tcp != nil {
		_ = tcp.Close() // nothing was written, so nothing can be lost
	}
}
