// Command hello is an HTTP server on one port that answers every request with "Hello"
// and closes the connection. It shows package serve under load: a silent connection
// costs no goroutine, surplus clients wait in the kernel's queue, and no client can
// hold a slot for longer than -timeout allows.
//
//	hello -port 8080 -max 10000
//
// SIGTERM and SIGINT stop it after the requests in flight are answered.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"syscall"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/serve"
)

func main() {
	port := flag.Uint("port", 8080, "port on all addresses; 0 picks one")
	limit := flag.Int("max", 10000, "most connections at once; 0: no bound")
	timeout := flag.Duration("timeout", 10*time.Second, "for the first byte of a request, and again for the rest and the answer")
	flag.Parse()
	if *port > math.MaxUint16 || *timeout <= 0 || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "hello: -port must be 0 to 65535, -timeout positive, and nothing may follow the flags")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, uint16(*port), *limit, *timeout); err != nil {
		fmt.Fprintln(os.Stderr, "hello:", err)
		os.Exit(1)
	}
}

// run serves until ctx is done and all requests in flight are answered.
func run(ctx context.Context, port uint16, limit int, timeout time.Duration) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	t := &reuseport.Transport{Logger: log}
	l, err := t.ListenPort(port)
	if err != nil {
		return err
	}
	srv := &serve.Server{
		Handler:     greeter{timeout}.serve,
		MaxConns:    limit,
		ParkNew:     true,
		IdleTimeout: timeout,
		Logger:      log,
	}
	log.Info("listening", "addr", l.Addr().String())
	go logInFlight(ctx, log, srv)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(manet.NetListener(l)) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	return shutdown(srv, t, 2*timeout)
}

// shutdown waits for the requests in flight, which end within two timeouts, and then
// until their connections have delivered everything.
func shutdown(srv *serve.Server, t *reuseport.Transport, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		return err
	}
	return t.Shutdown(ctx)
}

// logInFlight logs the requests in flight, once a second while the counters change.
func logInFlight(ctx context.Context, log *slog.Logger, srv *serve.Server) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var last serve.Stats
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if st := srv.Stats(); st != last {
			log.Info("requests", "in flight", st.Active, "idle", st.Parked, "accepted", st.Accepted, "waits at the limit", st.LimitWaits)
			last = st
		}
	}
}
