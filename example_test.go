//go:build !plan9

package reuseport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/reusetransport/reuseport"
)

// A dial leaves from the port that the Transport listens on.
func Example() {
	var us, them reuseport.Transport
	l, err := us.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	peer, err := them.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		log.Fatal(err)
	}
	defer peer.Close()
	c, err := us.Dial(peer.Multiaddr())
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Println(c.LocalMultiaddr().Equal(l.Multiaddr()), c.(*reuseport.Conn).Reused())
	// Output: true true
}

// One dial can ask for another policy than its Transport, by its context.
func ExampleWithPortUse() {
	var t reuseport.Transport
	ctx := reuseport.WithPortUse(context.Background(), reuseport.RequireReuse)
	_, err := t.DialContext(ctx, ma.StringCast("/ip4/127.0.0.1/tcp/4001"))
	fmt.Println(errors.Is(err, reuseport.ErrNoReuse))
	// Output: true
}

// An HTTP client whose requests leave from the listening port.
func ExampleTransport_DialNetContext() {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RemoteAddr) }))
	defer srv.Close()
	var t reuseport.Transport
	l, err := t.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	client := http.Client{Transport: &http.Transport{DialContext: t.DialNetContext}}
	defer client.CloseIdleConnections()
	res, err := client.Get(srv.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	seen, err := io.ReadAll(res.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(seen) == l.Addr().String())
	// Output: true
}

// A second Listen on an address is a second handle of the same socket. The port is free when
// both are closed.
func ExampleTransport_Listen() {
	var t, other reuseport.Transport
	l, err := t.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		log.Fatal(err)
	}
	again, err := t.Listen(l.Multiaddr())
	fmt.Println("the same Transport:", err)
	_, err = other.Listen(l.Multiaddr())
	fmt.Println("another one, in use:", errors.Is(err, syscall.EADDRINUSE))
	if err := errors.Join(again.Close(), l.Close()); err != nil {
		log.Fatal(err)
	}
	// Output:
	// the same Transport: <nil>
	// another one, in use: true
}

// A listener that somebody else made, as systemd or a library does, can be dialed from too.
func ExampleTransport_WrapListener() {
	theirs, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	var t reuseport.Transport
	l, err := t.WrapListener(theirs.(*net.TCPListener))
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	c := dialSomebody(&t)
	fmt.Println(c.LocalAddr().String() == theirs.Addr().String())
	_ = c.Abort()
	// Output: true
}

// dialSomebody connects to a server that never answers.
func dialSomebody(t *reuseport.Transport) *reuseport.Conn {
	somebody, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	c, err := t.DialNetContext(context.Background(), "tcp", somebody.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	return c.(*reuseport.Conn)
}

// Close does not wait; Shutdown waits until the peers have acknowledged what was written.
func ExampleTransport_Shutdown() {
	var t reuseport.Transport
	c := dialSomebody(&t)
	if _, err := io.WriteString(c, "goodbye"); err != nil {
		log.Fatal(err)
	}
	if err := c.Close(); err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := t.Shutdown(ctx)
	var lost *reuseport.UndeliveredError
	if errors.As(err, &lost) {
		log.Printf("%d connections, %d bytes", lost.Conns, lost.Bytes)
	}
	fmt.Println(err)
	// Output: <nil>
}

// What was written before Close arrives, and then EOF.
func ExampleConn_Close() {
	var us, them reuseport.Transport
	l, err := them.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	c, err := us.Dial(l.Multiaddr())
	if err != nil {
		log.Fatal(err)
	}
	if _, err := io.WriteString(c, "all of it"); err != nil {
		log.Fatal(err)
	}
	if err := c.Close(); err != nil {
		log.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer peer.Close()
	got, err := io.ReadAll(peer)
	fmt.Println(string(got), err)
	// Output: all of it <nil>
}

// Abort resets: the peer reads an error, and the 4-tuple is free at once.
func ExampleConn_Abort() {
	var us, them reuseport.Transport
	l, err := them.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	c, err := us.Dial(l.Multiaddr())
	if err != nil {
		log.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer peer.Close()
	if err := c.(*reuseport.Conn).Abort(); err != nil {
		log.Fatal(err)
	}
	_, err = io.ReadAll(peer)
	fmt.Println(errors.Is(err, syscall.ECONNRESET))
	// Output: true
}

// Stats tells how many dials left from a listening port, and why the others did not.
func ExampleTransport_Stats() {
	var t reuseport.Transport
	_ = dialSomebody(&t).Abort()
	s := t.Stats()
	fmt.Println(s.DialsReused, s.DialsNew, s.NewByCause[reuseport.NoListener])
	// Output: 0 1 1
}

// Control sees each socket before it is bound, here to say what it is for.
func ExampleTransport_control() {
	t := reuseport.Transport{Control: func(network, address string, c syscall.RawConn) error {
		fmt.Println(network)
		return nil // or the error of a socket option that c.Control sets
	}}
	l, err := t.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	_ = dialSomebody(&t).Abort()
	// Output:
	// tcp4
	// tcp4
}

// A dial whose SYN stays unanswered for HedgeDelay is made a second time, from an ephemeral
// port, in case the network drops what leaves the listening port.
func ExampleTransport_hedgeDelay() {
	patient := reuseport.Transport{HedgeDelay: 3 * time.Second}
	never := reuseport.Transport{HedgeDelay: -1}
	_, _ = dialSomebody(&patient).Abort(), dialSomebody(&never).Abort()
	fmt.Println(patient.Stats().Hedges, never.Stats().Hedges) // both were answered at once
	// Output: 0 0
}

// One socket serves IPv4 and IPv6 on every address of the host.
func ExampleTransport_ListenPort() {
	var t reuseport.Transport
	l, err := t.ListenPort(0)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	fmt.Println(t.Stats().Listeners)
	// Output: 1
}

// Two peers that know each other's address punch at about the same time, and get the two
// ends of one connection.
func ExampleTransport_Punch() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var us, them reuseport.Transport
	ours, err := us.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		log.Fatal(err)
	}
	theirs, err := them.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		log.Fatal(err)
	}
	punched := make(chan *reuseport.Conn)
	go func() {
		c, err := them.Punch(ctx, ours.Multiaddr())
		if err != nil {
			log.Fatal(err)
		}
		punched <- c
	}()
	c, err := us.Punch(ctx, theirs.Multiaddr())
	if err != nil {
		log.Fatal(err)
	}
	peer := <-punched
	fmt.Println(c.LocalMultiaddr().Equal(peer.RemoteMultiaddr()), c.RemoteMultiaddr().Equal(theirs.Multiaddr()))
	if err := errors.Join(c.Close(), peer.Close(), us.Shutdown(ctx), them.Shutdown(ctx)); err != nil {
		log.Fatal(err)
	}
	// Output: true true
}
