package serve

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/reusetransport/reuseport/internal/accept"
)

// DefaultErrorDelay is the wait after an accept error that means that the
// process is out of descriptors or memory.
const DefaultErrorDelay = 100 * time.Millisecond

// ErrServerClosed is what Serve and ServeN return after Shutdown or Close.
var ErrServerClosed = errors.New("serve: server closed")

// ErrNoHandler is what Serve and ServeN return if Handler is nil.
var ErrNoHandler = errors.New("serve: no Handler")

// ErrTooFewSlots is what Serve and ServeN return if MaxConns is below the
// number of accept loops: each of them holds a slot while it waits, so that one
// more would wait for ever.
var ErrTooFewSlots = errors.New("serve: MaxConns is below the number of accept loops")

// Handler serves a connection on a goroutine of its own. What it returns decides
// what becomes of the connection:
//
//   - nil, nil: it is done. The server closes the connection, unless the handler
//     has done so, and frees its slot.
//   - nil or a Handler, and an error: the same, and the error is logged.
//   - a Handler, nil: the connection is parked, and that Handler is called when
//     there is something to read: data, the peer's FIN or a reset, which its
//     first Read will tell apart. See Server.IdleTimeout for what may happen
//     instead.
//
// A handler must not use a connection that it has parked, and must have
// processed what it read ahead: bytes in its own buffer wake nobody. Parking
// clears the deadlines of the connection. A connection that has no descriptor to
// wait for (no syscall.Conn: tls.Conn, net.Pipe) is not parked; its next Handler
// is called at once on the same goroutine, and waits in its own Read.
//
// A panic in a handler is logged with its stack, counted, and ends the
// connection alone.
type Handler func(c net.Conn) (next Handler, err error)

// Server accepts connections from any number of listeners and gives each to a
// Handler. Its fields must not be changed after the first call of a method, and
// it must not be copied. The methods may be called from any goroutine.
type Server struct {
	// Handler is called for each connection, with what Accept returned: it is
	// not wrapped. Handler must not be nil.
	Handler Handler

	// MaxConns bounds the connections that the server holds, parked ones
	// included. The slot is taken before Accept, so that surplus clients wait
	// in the kernel's queue; one that waits in Accept counts as held. Zero or
	// negative: no bound.
	MaxConns int

	// ParkNew parks a new connection before its first call of Handler, so that
	// a client that says nothing costs no goroutine. Not for protocols in which
	// the server speaks first.
	ParkNew bool

	// IdleTimeout is how long a connection may stay parked; after that it is
	// closed, and no handler is called. Zero or negative: for ever.
	IdleTimeout time.Duration

	// ErrorDelay is the time to the next accept after one that failed for want
	// of descriptors or memory. Zero or negative: DefaultErrorDelay. A listener
	// that waits by itself, as RetryAccept's and a reuseport.Transport's do, does
	// not show such errors to the server, which then counts none.
	ErrorDelay time.Duration

	// Logger gets handler errors and panics, and the first accept error of a
	// burst. Nil: silent.
	Logger *slog.Logger

	once    sync.Once
	done    chan struct{} // closed when Shutdown or Close begins
	drained chan struct{} // closed when after that all loops and connections are gone
	slots   chan struct{} // one element per slot taken; nil without a bound
	parked  *parking      // the idle connections, which belong to nobody
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

// Serve accepts connections from l until Shutdown, Close or an error that is the
// listener's end, and returns ErrServerClosed or that error; it is never nil.
// Connections that are being served stay. Errors that are not the end are
// skipped, or delay the next accept by ErrorDelay, and are counted.
//
// l belongs to the server and is closed when Serve returns. Serve may be called
// several times at once, with one listener or several.
// With MaxConns, ErrTooFewSlots is returned if there would be more loops than
// slots.
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
			return s.ended(err)
		}
		s.start(c)
	}
}

func (s *Server) newLoop(l net.Listener) *loop {
	lp := &loop{Listener: l}
	lp.backoff = fixedBackoff(s.ErrorDelay)
	lp.backoff.Notify = func(e accept.Event) { s.swallowed(l, e) }
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

// closeListener closes l; that it was closed before is no error.
func closeListener(l net.Listener) error {
	if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// acquire takes a slot. It reports false if the server stops meanwhile.
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

// ended says why an accept loop ended.
func (s *Server) ended(err error) error {
	select {
	case <-s.done:
		return ErrServerClosed
	default:
		return err
	}
}

// swallowed counts an accept error that the loop goes on after.
func (s *Server) swallowed(l net.Listener, e accept.Event) {
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
