package serve_test

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/serve"
)

// timeout is an IdleTimeout that does not pass between two steps of a test, even on a busy
// machine. short is enough for one step. far is a deadline that never comes.
const (
	short   = 100 * time.Millisecond
	timeout = 600 * time.Millisecond
	far     = time.Hour
)

// wantEndAfter demands that the server closes c after about d of silence.
func wantEndAfter(t *testing.T, c net.Conn, d time.Duration) {
	t.Helper()
	start := time.Now()
	wantEOF(t, c)
	if took := time.Since(start); took < d*8/10 || took > d+2*time.Second {
		t.Errorf("closed after %v, want %v", took, d)
	}
}

// A connection behind TLS is not parked, but IdleTimeout counts from the call of the
// handler that waits, whatever deadline that sets.
func TestIdleTimeoutTLS(t *testing.T) {
	var log logBuffer
	s := &serve.Server{IdleTimeout: timeout, Logger: slog.New(slog.NewTextHandler(&log, nil))}
	s.Handler = func(c net.Conn) (serve.Handler, error) {
		if err := c.SetDeadline(time.Now().Add(far)); err != nil {
			return nil, err
		}
		return with(s.Handler)(answerOK(c))
	}
	dial := runningTLS(t, s)
	c, other := dial(), dial()
	for range 4 {
		get(t, c)
		time.Sleep(timeout / 3)
	}
	get(t, other)
	get(t, c)
	wantEndAfter(t, c, timeout)
	wantEndAfter(t, other, 0)
	eventually(t, "both are counted", func() bool { return s.Stats().IdleTimeouts == 2 && s.Stats().Active == 0 })
	if log.String() != "" {
		t.Errorf("logged:\n%s", log.String())
	}
}

// IdleTimeout does not end a handler that has something to do, however long it takes.
func TestIdleTimeoutSparesWorkTLS(t *testing.T) {
	s := &serve.Server{IdleTimeout: timeout}
	s.Handler = func(c net.Conn) (serve.Handler, error) {
		if err := readUntil(c, "\r\n"); err != nil {
			return nil, err
		}
		time.Sleep(timeout + short)
		return with(s.Handler)(answerOK(c))
	}
	c := runningTLS(t, s)()
	for range 2 {
		for _, part := range []string{"GET / HTTP/1.1\r\n", "Host: h\r\n"} {
			write(t, c, part)
			time.Sleep(timeout + short)
		}
		get(t, c) // ends this request
	}
	if n := s.Stats().IdleTimeouts; n != 0 {
		t.Errorf("%d idle timeouts", n)
	}
}

// With ParkNew a client behind TLS has IdleTimeout for its handshake, and again for its
// request.
func TestIdleTimeoutNewTLS(t *testing.T) {
	config, trust := certificate(t)
	s := &serve.Server{Handler: answerOK, IdleTimeout: timeout, ParkNew: true}
	l := listen(t)
	runningOn(t, s, tls.NewListener(l, config))
	mute := dial(t, l)
	wantEndAfter(t, mute, timeout)
	late := dial(t, l)
	time.Sleep(timeout / 2)
	c := tls.Client(late, trust)
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	wantEndAfter(t, c, timeout)
	c = dialTLS(t, l.Addr(), trust)
	time.Sleep(timeout / 2)
	get(t, c)
	eventually(t, "two are counted", func() bool { return s.Stats().IdleTimeouts == 2 })
}

// A connection that hides its socket gets a read deadline, which its handler may change.
func TestIdleTimeoutHiddenSocket(t *testing.T) {
	var extended atomic.Bool
	told := make(chan error, 2)
	s := &serve.Server{IdleTimeout: timeout, ParkNew: true}
	s.Handler = func(c net.Conn) (serve.Handler, error) {
		if extended.Load() {
			if err := c.SetReadDeadline(time.Now().Add(far)); err != nil {
				return nil, err
			}
		}
		next, err := with(s.Handler)(answerOK(c))
		if err != nil {
			told <- err
			return nil, nil
		}
		return next, nil
	}
	l := listen(t)
	runningOn(t, s, onlyConns{l})
	mute, c := dial(t, l), dial(t, l)
	get(t, c)
	for _, c := range []net.Conn{mute, c} {
		wantEOF(t, c)
		if err := receive(t, told); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("handler read %v, want os.ErrDeadlineExceeded", err)
		}
	}
	extended.Store(true)
	c = dial(t, l)
	time.Sleep(timeout + short)
	get(t, c)
}

// A handler starts without deadlines, whether the connection was parked or could not be.
func TestNoOldDeadlinesTLS(t *testing.T) {
	s := &serve.Server{Handler: func(c net.Conn) (serve.Handler, error) {
		next, err := answerOK(c)
		return next, errors.Join(err, c.SetDeadline(time.Now().Add(short)))
	}}
	c := runningTLS(t, s)()
	get(t, c)
	time.Sleep(2 * short)
	get(t, c)
}

// A handler behind TLS that panics or exits in its second call frees its slot, and its
// IdleTimeout does not pass later.
func TestHandlerFailuresTLS(t *testing.T) {
	failures := make(chan func(), 2)
	failures <- runtime.Goexit
	failures <- func() { panic("my panic") }
	fail := func(c net.Conn) (serve.Handler, error) {
		(<-failures)()
		return nil, nil
	}
	s := &serve.Server{MaxConns: 1, IdleTimeout: timeout, Handler: func(c net.Conn) (serve.Handler, error) {
		return with(fail)(answerOK(c))
	}}
	dial := runningTLS(t, s)
	for range cap(failures) {
		c := dial()
		get(t, c)
		wantEOF(t, c)
	}
	eventually(t, "both slots are free", func() bool { return s.Stats().Active == 0 })
	time.Sleep(timeout + short)
	if st := s.Stats(); st.IdleTimeouts != 0 || st.Panics != 1 {
		t.Errorf("%+v", st)
	}
}

// with returns a function that replaces the Handler of a connection that goes on.
func with(h serve.Handler) func(serve.Handler, error) (serve.Handler, error) {
	return func(next serve.Handler, err error) (serve.Handler, error) {
		if next != nil {
			next = h
		}
		return next, err
	}
}
