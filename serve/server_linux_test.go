package serve_test

import (
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/serve"
)

// A layeredListener accepts connections with a layer on top, as tls.NewListener's does.
type layeredListener struct{ net.Listener }

func (l layeredListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return layer{c}, err
}

type layer struct{ net.Conn }

func (l layer) NetConn() net.Conn { return l.Conn }

// TestMaxConnsBoundsPendingCloses: closed connections of a reuseport.Transport keep an eighth
// of MaxConns descriptors, however many their peers leave open, and below a layer too.
func TestMaxConnsBoundsPendingCloses(t *testing.T) {
	t.Run("bare", func(t *testing.T) { wantFewPending(t, transportListener(t)) })
	t.Run("layered", func(t *testing.T) { wantFewPending(t, layeredListener{transportListener(t)}) })
}

// wantFewPending serves l with MaxConns to clients that do not close.
func wantFewPending(t *testing.T, l net.Listener) {
	t.Helper()
	const maxConns, clients = 32, 100
	hangUp := func(c net.Conn) (serve.Handler, error) {
		_, err := c.Write([]byte("busy")) // for a client that was told nothing, nothing is kept
		return nil, err
	}
	s := &serve.Server{Handler: hangUp, MaxConns: maxConns}
	wait := begin(s, l)
	var conns []net.Conn
	for range clients {
		c := dial(t, l)
		if got, err := io.ReadAll(c); string(got) != "busy" || err != nil { // to EOF: the server has closed
			t.Fatalf("%q, %v", got, err)
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
	time.Sleep(2500 * time.Millisecond) // each is looked at every 2 s
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
