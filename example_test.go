package reuseport_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
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
	var t reuseport.Transport
	client := http.Client{Transport: &http.Transport{DialContext: t.DialNetContext}}
	_, err := client.Get("udp://127.0.0.1")
	fmt.Println(err)
	// Output: Get "udp://127.0.0.1": unsupported protocol scheme "udp"
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
