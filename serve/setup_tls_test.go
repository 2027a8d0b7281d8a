package serve_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/serve"
)

// certificate returns what the two sides of TLS need.
func certificate(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	client = s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	client.ServerName = "example.com"
	return &tls.Config{Certificates: s.TLS.Certificates}, client
}

// runningTLS starts a server whose connections cannot be parked. The end of the test
// closes it and waits for it. Each call of the returned function makes a connection.
func runningTLS(t testing.TB, s *serve.Server) (dial func() *tls.Conn) {
	t.Helper()
	config, client := certificate(t)
	l := listen(t)
	runningOn(t, s, tls.NewListener(l, config))
	return func() *tls.Conn { return dialTLS(t, l.Addr(), client) }
}

// dialTLS makes a connection with its handshake done.
func dialTLS(t testing.TB, addr net.Addr, config *tls.Config) *tls.Conn {
	t.Helper()
	c, err := tls.Dial("tcp4", addr.String(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // the server has usually closed it
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

const request = "GET / HTTP/1.1\r\nHost: h\r\n\r\n"

// answerOK is a serve.Handler for HTTP requests without a body that come one at a time.
func answerOK(c net.Conn) (serve.Handler, error) {
	if err := readUntil(c, "\r\n\r\n"); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	return answerOK, err
}

// readUntil reads until the input ends with end.
func readUntil(c net.Conn, end string) error {
	var in []byte
	for b := make([]byte, 512); !bytes.HasSuffix(in, []byte(end)); {
		n, err := c.Read(b)
		if err != nil {
			return err
		}
		in = append(in, b[:n]...)
	}
	return nil
}

// get makes one request of answerOK or of net/http's server.
func get(t testing.TB, c net.Conn) {
	t.Helper()
	write(t, c, request)
	wantOK(t, c)
}

func write(t testing.TB, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func wantOK(t testing.TB, c net.Conn) {
	t.Helper()
	if err := readUntil(c, "\r\n\r\nok"); err != nil {
		t.Fatalf("no answer: %v", err)
	}
}
