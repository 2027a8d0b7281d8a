//go:build !plan9

package serve_test

import (
	"errors"
	"log/slog"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/serve"
)

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

// When one listener ends, neither the other one nor any connection is affected.
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
