//go:build !plan9

package serve_test

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/serve"
)

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

func TestParkedClose(t *testing.T) {
	parkedServer(t, func(t *testing.T, p *parkedPair) {
		p.park(t)
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		wantEOF(t, p.client)
		p.gone(t, 0)
	})
}

func TestParkedShutdown(t *testing.T) {
	parkedServer(t, func(t *testing.T, p *parkedPair) {
		p.park(t)
		shutdown(t, p.Server)
		wantEOF(t, p.client)
		p.gone(t, 0)
	})
}

// A new connection whose request is still on its way is served.
func TestShutdownServesTheNew(t *testing.T) {
	s := &serve.Server{ParkNew: true, Handler: echo}
	c := dial(t, running(t, s))
	eventually(t, "parked", func() bool { return s.Stats().Parked == 1 })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		shutdown(t, s)
	}()
	eventually(t, "the handler runs", func() bool { return s.Stats().Active == 1 })
	ask(t, c)
	wantEOF(t, c)
	<-ended
}

// A connection that has said nothing for five seconds is closed without a handler.
func TestShutdownClosesTheMute(t *testing.T) {
	t.Parallel()
	called := make(chan struct{}, 1)
	s := &serve.Server{ParkNew: true, Handler: func(net.Conn) (serve.Handler, error) {
		called <- struct{}{}
		return nil, nil
	}}
	c := dial(t, running(t, s))
	eventually(t, "parked", func() bool { return s.Stats().Parked == 1 })
	time.Sleep(5 * time.Second)
	shutdown(t, s)
	wantEOF(t, c)
	if len(called) > 0 {
		t.Error("the handler was called")
	}
}

// Data that arrived before Shutdown began is answered, whether its event was seen or
// not.
func TestShutdownServesWhatHasCome(t *testing.T) {
	const n = 200
	s := &serve.Server{Handler: echo}
	l := running(t, s)
	clients := make([]net.Conn, n)
	for i := range clients {
		clients[i] = dial(t, l)
		ask(t, clients[i])
	}
	eventually(t, "parked", func() bool { return s.Stats().Parked == n })
	for _, c := range clients {
		if _, err := c.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
	}
	shutdown(t, s)
	for _, c := range clients {
		if got, err := io.ReadAll(c); err != nil || len(got) != 1 {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

// A connection that its handler parks after Shutdown began is closed.
func TestParkedAfterShutdown(t *testing.T) {
	p := newPair(t, false, 0)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		shutdown(t, p.Server)
	}()
	<-p.Done()
	eventually(t, "the parking is closed", func() bool { return p.Stats().Active == 1 })
	close(p.parks)
	<-ended
	wantEOF(t, p.client)
	p.gone(t, 0)
}
