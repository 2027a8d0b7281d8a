package guide

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/reusetransport/reuseport"
)

// patience bounds what a test waits for.
const patience = 20 * time.Second

// roleVariable makes this binary a child of a test instead of a test.
const roleVariable = "REUSEPORT_GUIDE_ROLE"

// roles are what a child does. It prints a line and exits.
var roles = map[string]func() error{"activated": beActivated, "upgraded": beUpgraded}

func TestMain(m *testing.M) {
	role := roles[os.Getenv(roleVariable)]
	if role == nil {
		os.Exit(m.Run())
	}
	if err := role(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// listen returns a listener of package net on loopback.
func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// listenFor makes tr listen on loopback.
func listenFor(t *testing.T, tr *reuseport.Transport) net.Listener {
	t.Helper()
	l, err := tr.Net().Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// serve serves HTTP on l until the test ends.
func serve(t *testing.T, l net.Listener, handler http.HandlerFunc) *http.Server {
	t.Helper()
	srv := &http.Server{Handler: handler}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return srv
}

// tellPeer answers with the address that a request came from.
func tellPeer(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RemoteAddr) }

// sayPort dials an address, and says whether the connection reused the port.
func sayPort(tr *reuseport.Transport, address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := tr.DialNetContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	conn := c.(*reuseport.Conn)
	fmt.Printf("reused %t, %v\n", conn.Reused(), conn.Cause())
	return conn.Abort()
}
