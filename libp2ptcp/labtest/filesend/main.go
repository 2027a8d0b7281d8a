// Command filesend sends a file between two libp2p hosts behind NATs. They meet at a
// relay, punch a direct connection from the ports they listen on, and send the file
// over it. The NATs, the relay and the hosts all run on this machine, in network
// namespaces; nothing else is needed:
//
//	go run ./filesend                        64 MB of random bytes
//	go run ./filesend -file PATH -rtt 100ms
//	go run ./filesend -nat dependent         NATs that cannot be punched: the relay carries the file
//
// host.go is what a program on real machines needs; lab.go builds the lab.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/reusetransport/reuseport/lab"
)

func main() {
	lab.Enter(roles())
	var d demo
	flag.StringVar(&d.file, "file", "", "file to send; empty = random bytes")
	flag.Int64Var(&d.size, "size", 64<<20, "how many random bytes to send")
	flag.DurationVar(&d.rtt, "rtt", 20*time.Millisecond, "round trip time between the NATs")
	nat := flag.String("nat", "shifting", "what the NATs do with ports: preserving, shifting or dependent")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := d.start(ctx, *nat); err != nil {
		fmt.Fprintln(os.Stderr, "filesend:", err)
		os.Exit(1)
	}
}

func (d *demo) start(ctx context.Context, nat string) error {
	mappings := map[string]lab.Mapping{
		"preserving": lab.PortPreserving, "shifting": lab.PortShifting, "dependent": lab.AddressAndPortDependent,
	}
	mapping, ok := mappings[nat]
	if !ok {
		return fmt.Errorf("no such NAT: %q", nat)
	}
	d.mapping, d.out = mapping, os.Stdout
	n, err := lab.Build(ctx, d.topology())
	if err != nil {
		return err
	}
	_, err = d.run(ctx, n)
	return errors.Join(err, n.Close())
}

// bar draws the progress of a transfer.
func bar(done, size int64, took time.Duration) string {
	const width = 40
	full := int(width * done / max(1, size))
	rate := float64(done) / 1e6 / max(took.Seconds(), 1e-3)
	return fmt.Sprintf("[%s%s] %3d %%  %6.1f MB  %5.1f MB/s",
		strings.Repeat("#", full), strings.Repeat(".", width-full), 100*done/max(1, size), float64(done)/1e6, rate)
}
