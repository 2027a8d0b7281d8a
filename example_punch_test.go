package reuseport_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/reusetransport/reuseport"
)

// Two peers that know each other's address punch at about the same time, and get
// the two ends of one connection.
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
