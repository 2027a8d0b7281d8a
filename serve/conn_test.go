//go:build !plan9

package serve_test

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime"
	"testing"

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

// An error, a panic and a Goexit end their own connection and nothing else.
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
	if lines(log.String(), "my error") != 2 || lines(log.String(), "my panic") != 2 || lines(log.String(), "conn_test.go") != 2 {
		t.Errorf("log lacks an error, a panic or its stack:\n%s", log.String())
	}
}
