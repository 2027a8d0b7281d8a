//go:build !plan9

package serve_test

import (
	"errors"
	"net"
	"testing"

	"github.com/reusetransport/reuseport/serve"
)

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

// When the listener ends, all loops end, and ServeN returns the listener's error.
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
