package serve

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/reusetransport/reuseport/internal/accept"
)

// DefaultErrorDelay is the wait after an accept error that means that the process is
// out of descriptors or memory.
const DefaultErrorDelay = 100 * time.Millisecond

// ErrServerClosed is returned by Serve and ServeN after Shutdown or Close.
var ErrServerClosed = errors.New("serve: server closed")

// ErrNoHandler is returned by Serve and ServeN if Handler is nil.
var ErrNoHandler = errors.New("serve: no Handler")

// ErrTooFewSlots is returned by Serve and ServeN if MaxConns is below the number of
// accept loops. Each loop holds a slot while it waits, so one loop too many would
// wait for ever.
var ErrTooFewSlots = errors.New("serve: MaxConns is below the number of accept loops")

// Handler serves a connection on a goroutine of its own. Its results decide what
// happens next:
//
//   - nil, nil: the connection is done. The server closes it, unless the handler has,
//     and frees its slot.
//   - nil or a Handler, and an error: the same, and the error is logged.
//   - a Handler, nil: the connection is parked, and that Handler is called when there
//     is something to read: data, the peer's FIN or a reset. Its first Read tells
//     which. See Server.IdleTimeout for what may happen instead.
//
// A handler must not use a connection after it has parked it, and must first process
// everything it has read: bytes in its own buffer do not wake it. A connection without
// a descriptor to wait for (no syscall.Conn: tls.Conn, net.Pipe) is not parked; its next
// Handler is called at once on the same goroutine and waits in its own Read (see the
// section on TLS in the package documentation). Each further Handler starts without
// deadlines.
//
// A panic in a handler is logged with its stack and counted, and ends only its own
// connection.
type Handler func(c net.Conn) (next Handler, err error)

// Server accepts connections from any number of listeners and passes each to a
// Handler. Its fields must not be changed after the first call of a method, and it
// must not be copied. Its methods may be called from any goroutine.
type Server struct {
	// Handler is called for each connection, with exactly what Accept returned. It
	// must not be nil.
	Handler Handler

	// MaxConns bounds the connections that the server holds, parked ones included.
	// Each accept loop takes its slot before it accepts, so that surplus clients wait
	// in the kernel's queue; a loop that waits in Accept holds a slot too. Zero or
	// negative: no bound.
	//
	// Connections of a reuseport.Transport may keep descriptors for a while after they
	// were closed: an eighth of MaxConns at most, and at least one.
	MaxConns int

	// ParkNew parks a new connection before Handler is called for it, so that a
	// client that sends nothing costs no goroutine. It is not for protocols in which
	// the server speaks first.
	ParkNew bool

	// IdleTimeout is how long a connection may stay parked. After that it is closed
	// without a call of its handler. A handler that was called because the connection
	// could not be parked may wait as long; then its Read returns io.EOF. Zero or
	// negative: for ever.
	IdleTimeout time.Duration

	// ErrorDelay is the wait after an accept error that means that the process is out
	// of descriptors or memory. Zero or negative: DefaultErrorDelay. Listeners that
	// wait by themselves, such as those of RetryAccept and of a reuseport.Transport,
	// do not return these errors, so the server does not count them.
	ErrorDelay time.Duration

	// Logger gets the errors and panics of handlers, and the first accept error of a
	// burst. Nil: nothing is logged.
	Logger *slog.Logger

	once    sync.Once
	done    chan struct{} // closed when Shutdown or Close begins
	drained chan struct{} // closed when, after that, all loops and connections have ended
	slots   chan struct{} // one element per slot taken; nil without a bound
	parked  *parking      // owns the idle connections
	mu      sync.Mutex    // guards what follows; parked.mu may be taken inside it
	conns   map[*conn]struct{}
	loops   map[*loop]struct{}
	stopped bool // Shutdown or Close has begun
	cut     bool // Close has begun
	stats   Stats
}

// loop is one accept loop. It owns its listener.
type loop struct {
	net.Listener
	backoff accept.Backoff
	limited bool // limitPendingCloses was called
}

func (s *Server) prepare() {
	s.once.Do(func() {
		s.done, s.drained = make(chan struct{}), make(chan struct{})
		s.conns, s.loops = make(map[*conn]struct{}), make(map[*loop]struct{})
		if s.MaxConns > 0 {
			s.slots = make(chan struct{}, s.MaxConns)
		}
		s.parked = newParking(s.IdleTimeout, s.resume, s.expire)
	})
}

// Serve accepts connections from l until Shutdown, Close or an error that means the
// end of l. It returns ErrServerClosed or that error, never nil. Connections that are
// being served go on. Other accept errors are counted; they are skipped, or delay the
// next accept by ErrorDelay.
//
// The server owns l and closes it when Serve returns. Serve may be called several
// times at once, with one listener or several. With MaxConns it returns
// ErrTooFewSlots if there would be more loops than slots.
func (s *Server) Serve(l net.Listener) error {
	s.prepare()
	lp := s.newLoop(l)
	if err := s.enter(lp); err != nil {
		if closing := closeListener(l); closing != nil {
			return errors.Join(err, closing)
		}
		return err
	}
	defer s.leave(lp)
	for {
		if !s.acquire() {
			return ErrServerClosed
		}
		c, err := accept.Next(&lp.backoff, s.done, lp.Accept)
		if err != nil {
			s.release()
			return s.endError(err)
		}
		s.limitPendingCloses(lp, c)
		s.start(c)
	}
}

// limitPendingCloses bounds the descriptors that closed connections keep, if c or the socket
// below it can. That holds for all connections of c's Transport, so a loop asks one of them.
func (s *Server) limitPendingCloses(lp *loop, c net.Conn) {
	if lp.limited || s.MaxConns <= 0 {
		return
	}
	lp.limited = true
	if keeper, ok := socketOf(c).(interface{ LimitPendingCloses(n int) }); ok {
		keeper.LimitPendingCloses(max(1, s.MaxConns/8))
	}
}

func (s *Server) newLoop(l net.Listener) *loop {
	lp := &loop{Listener: l}
	lp.backoff = fixedBackoff(s.ErrorDelay)
	lp.backoff.Notify = func(e accept.Event) { s.noteAcceptError(l, e) }
	return lp
}

// enter admits an accept loop.
func (s *Server) enter(lp *loop) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return ErrServerClosed
	}
	if s.Handler == nil {
		return ErrNoHandler
	}
	if s.slots != nil && len(s.loops) == cap(s.slots) {
		return ErrTooFewSlots
	}
	s.loops[lp] = struct{}{}
	return nil
}

// leave closes the listener of a loop that ends.
func (s *Server) leave(lp *loop) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := closeListener(lp.Listener); err != nil {
		s.log().Warn("closing listener", "laddr", lp.Addr(), "err", err)
	}
	delete(s.loops, lp)
	s.checkDrained()
}

// closeListener closes l. It is no error if l was closed before.
func closeListener(l net.Listener) error {
	if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// acquire takes a slot, waiting for one if need be, and reports whether it did: not
// if the server stops.
func (s *Server) acquire() bool {
	if s.slots == nil {
		return true
	}
	select {
	case s.slots <- struct{}{}:
		return true
	default:
	}
	s.count(&s.stats.LimitWaits)
	select {
	case s.slots <- struct{}{}:
		return true
	case <-s.done:
		return false
	}
}

func (s *Server) release() {
	if s.slots != nil {
		<-s.slots
	}
}

// endError returns the error that Serve ends with.
func (s *Server) endError(err error) error {
	select {
	case <-s.done:
		return ErrServerClosed
	default:
		return err
	}
}

// noteAcceptError counts an accept error that does not end the loop.
func (s *Server) noteAcceptError(l net.Listener, e accept.Event) {
	if e.Kind == accept.Harmless {
		s.count(&s.stats.AcceptSkipped)
		return
	}
	s.count(&s.stats.AcceptDelayed)
	if e.First {
		s.log().Warn("accept waits", "laddr", l.Addr(), "err", e.Err, "delay", e.Wait)
	}
}

func (s *Server) count(n *uint64) {
	s.mu.Lock()
	*n++
	s.mu.Unlock()
}

func (s *Server) log() *slog.Logger {
	if s.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Logger
}
