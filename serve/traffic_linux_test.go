package serve

import (
	"crypto/tls"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// accepted returns both ends of a connection.
func accepted(t *testing.T, network, addr string, d *net.Dialer) (client net.Conn, server *conn) {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // nobody waits in it
	client, err = d.DialContext(t.Context(), network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() }) // all has been read
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() }) // as above
	return client, &conn{Conn: nc}
}

// The kernel counts bytes when they come, whether they are read or not, and times both
// directions.
func TestTraffic(t *testing.T) {
	const pause, tick = 200 * time.Millisecond, 20 * time.Millisecond // ticks of the kernel are shorter
	began := time.Now()                                               // the last traffic: not before this
	client, server := accepted(t, "tcp4", "127.0.0.1:0", new(net.Dialer))
	done := time.Now() // and not after this
	send := func(c net.Conn) {
		t.Helper()
		began = time.Now()
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
		done = time.Now()
	}
	want := func(received uint64, input bool) {
		t.Helper()
		least := time.Since(done) - tick
		got, ok := server.traffic()
		most := time.Since(began) + tick
		if !ok || got.received != received || got.quiet < least || got.quiet > most || got.input != input {
			t.Errorf("%+v, %v; want %d received, quiet for %v to %v, input %v", got, ok, received, least, most, input)
		}
	}
	time.Sleep(pause)
	want(0, false)
	send(client)
	want(5, true)
	if _, err := io.ReadFull(server, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(pause)
	want(5, false)
	send(server)
	want(5, false)
	if err := client.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, ok := server.traffic(); !ok || !got.input {
		t.Errorf("after a FIN: %+v, %v", got, ok)
	}
}

// What the kernel does not count, or counts for one path only, is not taken for silence.
func TestNoTraffic(t *testing.T) {
	_, local := accepted(t, "unix", filepath.Join(t.TempDir(), "socket"), new(net.Dialer))
	_, tcp := accepted(t, "tcp4", "127.0.0.1:0", new(net.Dialer))
	pipe, _ := net.Pipe()
	for name, c := range map[string]net.Conn{"unix": local.Conn, "pipe": pipe, "hidden": hidden{tcp}} {
		if got, ok := (&conn{Conn: c}).traffic(); ok {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if _, ok := (&conn{Conn: tls.Client(tls.Client(tcp.Conn, nil), nil)}).traffic(); !ok {
		t.Error("no traffic below two layers of TLS")
	}
}

func TestNoTrafficOfMultipath(t *testing.T) {
	d := new(net.Dialer)
	d.SetMultipathTCP(true)
	_, server := accepted(t, "tcp4", "127.0.0.1:0", d)
	if used, err := server.Conn.(*net.TCPConn).MultipathTCP(); err != nil || !used {
		t.Skipf("the kernel has no multipath TCP: %v", err)
	}
	if got, ok := server.traffic(); ok {
		t.Errorf("%+v", got)
	}
}

// hidden is a layer without NetConn.
type hidden struct{ net.Conn }
