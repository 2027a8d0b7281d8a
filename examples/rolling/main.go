//go:build unix

// Command rolling serves one port with several processes and replaces them one by one
// without losing a connection.
//
//	rolling -port 8080 -workers 4     # answers a line with "worker 2 pid 4711" and closes
//	kill -HUP PID                     # replace all workers, one after the other
//	kill -TERM PID                    # stop when all connections are served
//
// The supervisor makes one socket per worker on the port (Transport.Shared) and never
// accepts; the kernel spreads connections over the sockets (Linux; the BSDs and macOS
// give all to one). Each worker inherits its socket. To replace a worker, the
// supervisor starts the next one with the same socket and stops the old one once the
// new one accepts; if the new one fails, the old one stays.
//
// The supervisor keeps every socket open, so no connection in a queue is reset, even
// if a worker crashes. The kernel goes on giving that socket its share, so the
// supervisor starts another worker on it. If each worker opened its own socket, closing
// it would lose its queue, unless net.ipv4.tcp_migrate_req=1 (Linux 5.14; see package
// serve).
package main

import (
	"flag"
	"fmt"
	"math"
	"os"
	"time"
)

// patience is how long a worker may take to be ready or to end.
const patience = 10 * time.Second

func main() {
	port := flag.Uint("port", 8080, "port on all addresses; 0 picks one")
	workers := flag.Int("workers", 2, "processes")
	number := flag.Int("worker", -1, "be this worker, on the socket that is descriptor 3")
	flag.Parse()
	if *port > math.MaxUint16 || *workers < 1 || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "rolling: -port must be 0 to 65535, -workers at least 1, and nothing may follow the flags")
		os.Exit(2)
	}
	var err error
	if *number >= 0 {
		err = work(*number)
	} else {
		err = supervise(uint16(*port), *workers)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "rolling:", err)
		os.Exit(1)
	}
}
