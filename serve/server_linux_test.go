package serve_test

import (
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/serve"
)

// TestMaxConnsBoundsPendingCloses: closed connections of a reuseport.Transport keep an eighth
// of MaxConns descriptors, however many their peers leave open.
func TestMaxConnsBoundsPendingCloses(t *testing.T) {
	const maxConns, clients = 32, 100
	hangUp := func(net.Conn) (serve.Handler, error) { return nil, nil }
	s := &serve.Server{Handler: hangUp, MaxConns: maxConns}
	l := transportListener(t)
	wait := begin(s, l)
	var conns []net.Conn
	for range clients {
		c := dial(t, l)
		if _, err := c.Read(make([]byte, 1)); err != io.EOF { // the server has closed
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	time.Sleep(50 * time.Millisecond) // the last Close may still be under way
	during := descriptors(t)
	for _, c := range conns {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	kept := func() int { return during - clients - descriptors(t) }
	eventually(t, "descriptors that closes kept", func() bool { return kept() > 0 })
	time.Sleep(1500 * time.Millisecond) // each is looked at once a second
	if n := kept(); n > maxConns/8 {
		t.Errorf("%d descriptors were kept, want at most %d", n, maxConns/8)
	}
	shutdown(t, s)
	_ = wait() // ErrServerClosed, as other tests check
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}
