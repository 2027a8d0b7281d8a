// Command peer listens on a port and dials another peer from that same port.
//
//	go run ./examples/peer 4001
//	go run ./examples/peer 4002 /ip4/127.0.0.1/tcp/4001
package main

import (
	"fmt"
	"io"
	"log"
	"os"
	"strconv"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
)

func main() {
	if len(os.Args) < 2 || len(os.Args) > 3 {
		log.Fatal("usage: peer PORT [MULTIADDR]")
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		log.Fatal(err)
	}
}

func run(port string, peers []string) error {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return err
	}
	var t reuseport.Transport
	l, err := t.ListenPort(uint16(n))
	if err != nil {
		return err
	}
	fmt.Println("listening on", l.Multiaddr())
	if len(peers) == 0 {
		return answer(l)
	}
	return greet(&t, peers[0])
}

// answer tells each peer the address it is seen at.
func answer(l manet.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		fmt.Println("accepted", c.RemoteMultiaddr())
		fmt.Fprintln(c, "you are", c.RemoteMultiaddr())
		if err := c.Close(); err != nil {
			return err
		}
	}
}

// greet dials a peer and prints what it says.
func greet(t *reuseport.Transport, peer string) error {
	raddr, err := ma.NewMultiaddr(peer)
	if err != nil {
		return err
	}
	c, err := t.Dial(raddr)
	if err != nil {
		return err
	}
	fmt.Println("dialed from", c.LocalMultiaddr(), "reused:", c.(*reuseport.Conn).Reused())
	_, err = io.Copy(os.Stdout, c)
	return err
}
