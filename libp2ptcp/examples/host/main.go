// Command host runs a libp2p host that dials from the port it listens on.
package main

import (
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/reusetransport/reuseport/libp2ptcp"
)

func main() {
	h, err := libp2p.New(
		libp2p.Transport(libp2ptcp.New), // this line
		libp2p.ListenAddrStrings("/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001"),
		libp2p.EnableHolePunching(),
	)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(host.InfoFromHost(h))

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt)
	<-stop
	if err := h.Close(); err != nil {
		log.Fatal(err)
	}
}
