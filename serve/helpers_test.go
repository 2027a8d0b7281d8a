package serve_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/serve"
)

// patience is how long a test waits for what should come at once.
const patience = 20 * time.Second

func listen(t testing.TB) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // most tests have closed it
	return l
}

// begin serves l and returns a function that waits for the end of Serve.
func begin(s *serve.Server, l net.Listener) (wait func() error) {
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	return func() error { return <-ended }
}

// running starts a server that the end of the test closes, and waits for.
func running(t testing.TB, s *serve.Server) *net.TCPListener {
	t.Helper()
	l := listen(t)
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
	return l
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
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // most tests have closed it
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// echo answers each write and parks in between, until EOF.
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

// ask has echo answer.
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

// wantEOF demands that the peer has closed, and without a reset.
func wantEOF(t testing.TB, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("Read: %d, %v, want EOF", n, err)
	}
}

// leaks returns a check that descriptors and goroutines are back to what they
// were.
func leaks(t testing.TB) (check func()) {
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	return func() {
		t.Helper()
		eventually(t, "the goroutines and descriptors are gone", func() bool {
			return runtime.NumGoroutine() <= goroutines && openFiles(t) <= files
		})
	}
}

// openFiles counts descriptors, where the system can tell.
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

// lines counts the lines of a log that contain s.
func lines(log, s string) (n int) {
	for line := range strings.Lines(log) {
		if strings.Contains(line, s) {
			n++
		}
	}
	return n
}
