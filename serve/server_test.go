//go:build !plan9

package serve_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/serve"
)

func TestHandlerGetsTheConnectionUnwrapped(t *testing.T) {
	got := make(chan net.Conn, 1)
	s := &serve.Server{Handler: func(c net.Conn) (serve.Handler, error) {
		got <- c
		return nil, nil
	}}
	c := dial(t, running(t, s))
	if nc, ok := (<-got).(*net.TCPConn); !ok {
		t.Errorf("%T, want *net.TCPConn", nc)
	}
	wantEOF(t, c)
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

// An error, a panic and a Goexit end their connection, and nothing else.
func TestHandlerFailures(t *testing.T) {
	var log logBuffer
	s := &serve.Server{MaxConns: 2, Logger: slog.New(slog.NewTextHandler(&log, nil))}
	s.Handler = func(c net.Conn) (serve.Handler, error) {
		var b [1]byte
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return nil, err
		}
		switch b[0] {
		case 'e':
			return s.Handler, errors.New("my error")
		case 'p':
			panic("my panic")
		case 'g':
			runtime.Goexit()
		}
		return nil, nil
	}
	l := running(t, s)
	for _, b := range []byte("epgepgx") {
		c := dial(t, l)
		if _, err := c.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
		wantEOF(t, c)
	}
	eventually(t, "all is counted", func() bool {
		st := s.Stats()
		return st.Accepted == 7 && st.Active == 0 && st.HandlerErrors == 2 && st.Panics == 2
	})
	if lines(log.String(), "my error") != 2 || lines(log.String(), "my panic") != 2 || lines(log.String(), "server_test.go") != 2 {
		t.Errorf("log lacks an error, a panic or its stack:\n%s", log.String())
	}
}

func TestServeRefusesBadUse(t *testing.T) {
	if err := new(serve.Server).Serve(listen(t)); !errors.Is(err, serve.ErrNoHandler) {
		t.Errorf("no handler: %v", err)
	}
	s := &serve.Server{Handler: echo, MaxConns: 1}
	l := running(t, s)
	ask(t, dial(t, l)) // the one loop runs
	l2 := listen(t)
	if err := s.Serve(l2); !errors.Is(err, serve.ErrTooFewSlots) {
		t.Errorf("second loop: %v", err)
	}
	if _, err := l2.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a refused listener stays open: %v", err)
	}
}

func TestServeAfterClose(t *testing.T) {
	s := &serve.Server{Handler: echo}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	shutdown(t, s)
	if err := s.Serve(listen(t)); err != serve.ErrServerClosed {
		t.Errorf("Serve: %v", err)
	}
}

// The end of one listener does not touch the other, nor the connections.
func TestOneOfTwoListenersEnds(t *testing.T) {
	s := &serve.Server{Handler: echo}
	a := listen(t)
	waitA := begin(s, a)
	b := running(t, s)
	ca, cb := dial(t, a), dial(t, b)
	ask(t, ca)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := waitA(); !errors.Is(err, net.ErrClosed) || errors.Is(err, serve.ErrServerClosed) {
		t.Errorf("Serve: %v, want net.ErrClosed", err)
	}
	ask(t, ca)
	ask(t, cb)
}

// scripted is a listener that fails as told before it accepts.
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

func TestAcceptErrorsDoNotEndServe(t *testing.T) {
	var log logBuffer
	s := &serve.Server{Handler: echo, ErrorDelay: time.Millisecond, Logger: slog.New(slog.NewTextHandler(&log, nil))}
	l := listen(t)
	wait := begin(s, &scripted{Listener: l, errs: []error{
		syscall.ECONNABORTED, syscall.EMFILE, syscall.ENFILE, syscall.ECONNABORTED,
	}})
	ask(t, dial(t, l))
	if st := s.Stats(); st.AcceptSkipped != 2 || st.AcceptDelayed != 2 {
		t.Errorf("%+v", st)
	}
	if n := lines(log.String(), "accept waits"); n != 1 {
		t.Errorf("%d lines for one burst:\n%s", n, log.String())
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := wait(); !errors.Is(err, serve.ErrServerClosed) {
		t.Error(err)
	}
}

// Close ends a delay at once, however long it is.
func TestCloseEndsDelay(t *testing.T) {
	s := &serve.Server{Handler: echo, ErrorDelay: time.Hour}
	wait := begin(s, &scripted{Listener: listen(t), errs: []error{syscall.EMFILE}})
	eventually(t, "accept waits", func() bool { return s.Stats().AcceptDelayed == 1 })
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := wait(); !errors.Is(err, serve.ErrServerClosed) {
		t.Error(err)
	}
}

func TestRetryAccept(t *testing.T) {
	l := listen(t)
	r := serve.RetryAccept(&scripted{Listener: l, errs: []error{syscall.ECONNABORTED, syscall.EMFILE}}, time.Millisecond)
	dial(t, l)
	c, err := r.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := c.(*net.TCPConn); !ok {
		t.Errorf("%T, want *net.TCPConn", c)
	}
	if err := errors.Join(c.Close(), r.Close()); err != nil {
		t.Error(err)
	}
	if _, err := r.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// starving is out of descriptors for ever, and says when it was asked.
type starving struct {
	net.Listener
	asked chan struct{}
}

func (l starving) Accept() (net.Conn, error) {
	l.asked <- struct{}{}
	return nil, syscall.EMFILE
}

func TestRetryAcceptWokenByClose(t *testing.T) {
	asked := make(chan struct{}, 1)
	r := serve.RetryAccept(starving{listen(t), asked}, time.Hour)
	ended := make(chan error, 1)
	go func() {
		_, err := r.Accept()
		ended <- err
	}()
	<-asked
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v, want net.ErrClosed", err)
	}
}

func TestServeN(t *testing.T) {
	check := leaks(t)
	s := &serve.Server{Handler: echo}
	l := listen(t)
	ended := make(chan error, 1)
	go func() { ended <- s.ServeN(l, 4) }()
	for range 100 {
		c := dial(t, l)
		ask(t, c)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	shutdown(t, s)
	if err := <-ended; !errors.Is(err, serve.ErrServerClosed) {
		t.Errorf("ServeN: %v", err)
	}
	check()
}

// The end of the listener ends all loops, with its error.
func TestServeNEndsWithItsListener(t *testing.T) {
	s := &serve.Server{Handler: echo}
	l := listen(t)
	ended := make(chan error, 1)
	go func() { ended <- s.ServeN(serve.RetryAccept(l, 0), 3) }()
	ask(t, dial(t, l))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("ServeN: %v, want net.ErrClosed", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestServeNTooFewSlots(t *testing.T) {
	s := &serve.Server{Handler: echo, MaxConns: 2}
	if err := s.ServeN(listen(t), 3); !errors.Is(err, serve.ErrTooFewSlots) {
		t.Errorf("ServeN: %v", err)
	}
}

func TestShutdownGivesUpWithItsContext(t *testing.T) {
	release := make(chan struct{})
	s := &serve.Server{Handler: func(net.Conn) (serve.Handler, error) {
		<-release
		return nil, nil
	}}
	l := running(t, s)
	dial(t, l)
	eventually(t, "the handler runs", func() bool { return s.Stats().Active == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
	select {
	case <-s.Done():
	default:
		t.Error("Done is open")
	}
	close(release)
	shutdown(t, s)
}
