package serve_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/serve"
)

// patience bounds the wait for something that should happen at once.
const patience = 20 * time.Second

func listen(t testing.TB) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // most tests close it themselves
	return l
}

// begin serves l and returns a function that waits for Serve to return.
func begin(s *serve.Server, l net.Listener) (wait func() error) {
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	return func() error { return <-ended }
}

// running starts a server. The end of the test closes it and waits for it.
func running(t testing.TB, s *serve.Server) *net.TCPListener {
	t.Helper()
	l := listen(t)
	runningOn(t, s, l)
	return l
}

// runningOn is running on a given listener.
func runningOn(t testing.TB, s *serve.Server, l net.Listener) {
	t.Helper()
	wait := begin(s, l)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		shutdown(t, s)
		if err := wait(); !errors.Is(err, serve.ErrServerClosed) {
			t.Errorf("Serve: %v, want ErrServerClosed", err)
		}
	})
}

func shutdown(t testing.TB, s *serve.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	if t.Context().Err() != nil { // in a cleanup
		ctx, cancel = context.WithTimeout(context.Background(), patience)
	}
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v, with %+v", err, s.Stats())
	}
}

func dial(t testing.TB, l net.Listener) *net.TCPConn {
	t.Helper()
	return dialTo(t, l.Addr())
}

func dialTo(t testing.TB, addr net.Addr) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp4", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // most tests close it themselves
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// receive waits for an error that a handler tells.
func receive(t testing.TB, told <-chan error) error {
	t.Helper()
	select {
	case err := <-told:
		return err
	case <-time.After(patience):
		t.Fatal("the handler says nothing")
		return nil
	}
}

// eventually waits until ok returns true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// echo sends back what it reads and parks after each answer, until EOF.
func echo(c net.Conn) (serve.Handler, error) {
	var b [64]byte
	n, err := c.Read(b[:])
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	_, err = c.Write(b[:n])
	return echo, err
}

// ask sends a word to echo and reads the answer.
func ask(t testing.TB, c net.Conn) {
	t.Helper()
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	var b [4]byte
	if _, err := io.ReadFull(c, b[:]); err != nil || string(b[:]) != "ping" {
		t.Fatalf("echo: %q, %v", b[:], err)
	}
}

// wantEOF demands that the peer has closed without a reset.
func wantEOF(t testing.TB, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("Read: %d, %v, want EOF", n, err)
	}
}

// leaks returns a check that no more descriptors and goroutines exist than before.
func leaks(t testing.TB) (check func()) {
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	return func() {
		t.Helper()
		eventually(t, "the goroutines and descriptors are gone", func() bool {
			return runtime.NumGoroutine() <= goroutines && openFiles(t) <= files
		})
	}
}

// openFiles returns the number of open descriptors, or 0 where the system does not
// tell.
func openFiles(t testing.TB) int {
	if runtime.GOOS != "linux" {
		return 0
	}
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// lines returns how many lines of a log contain s.
func lines(log, s string) (n int) {
	for line := range strings.Lines(log) {
		if strings.Contains(line, s) {
			n++
		}
	}
	return n
}

// parkedServer runs a test twice: with the connection parked in the epoll set, where
// there is one, and with a goroutine waiting for it.
func parkedServer(t *testing.T, test func(t *testing.T, p *parkedPair)) {
	t.Run("set", func(t *testing.T) { test(t, newPair(t, false, 0)) })
	t.Run("goroutine", func(t *testing.T) { test(t, newPair(t, true, 0)) })
}

// parkedPair is a server with one connection, about to be parked.
type parkedPair struct {
	*serve.Server
	client *net.TCPConn
	server net.Conn
	calls  atomic.Int32  // of the parked handler
	told   chan error    // the errors of its Read
	alone  bool          // a goroutine waits for it
	parks  chan struct{} // closed to park the connection
}

func newPair(t *testing.T, alone bool, timeout time.Duration) *parkedPair {
	p := &parkedPair{Server: new(serve.Server), told: make(chan error, 10), alone: alone, parks: make(chan struct{})}
	p.MaxConns, p.IdleTimeout = 1, timeout
	got := make(chan net.Conn, 1)
	p.Handler = func(c net.Conn) (serve.Handler, error) {
		got <- c
		<-p.parks
		return p.woken, nil
	}
	t.Cleanup(leaks(t))
	p.client = dial(t, running(t, p.Server))
	p.server = <-got
	return p
}

// park lets the connection be parked.
func (p *parkedPair) park(t *testing.T) {
	t.Helper()
	parked := func() {
		close(p.parks)
		eventually(t, "parked", func() bool {
			st := p.Stats()
			return st.Parked == 1 || st.IdleTimeouts == 1
		})
	}
	if p.alone {
		withoutDescriptors(t, parked)
		return
	}
	parked()
}

// woken reads what has arrived, which must not take time, and parks again unless Read
// fails.
func (p *parkedPair) woken(c net.Conn) (serve.Handler, error) {
	p.calls.Add(1)
	_, err := c.Read(make([]byte, 64))
	p.told <- err
	if err != nil {
		return nil, nil
	}
	return p.woken, nil
}

// gone demands that the slot is free after that many calls of the handler.
func (p *parkedPair) gone(t *testing.T, calls int32) {
	t.Helper()
	eventually(t, "the slot is free", func() bool {
		st := p.Stats()
		return st.Parked == 0 && st.Active == 0
	})
	if n := p.calls.Load(); n != calls {
		t.Errorf("%d calls of the handler, want %d", n, calls)
	}
}

// scripted is a listener that returns errs before it accepts.
type scripted struct {
	net.Listener
	mu   sync.Mutex
	errs []error
}

func (l *scripted) Accept() (net.Conn, error) {
	l.mu.Lock()
	if len(l.errs) > 0 {
		defer l.mu.Unlock()
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, err
	}
	l.mu.Unlock()
	return l.Listener.Accept()
}

// logBuffer is a log that may be read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
