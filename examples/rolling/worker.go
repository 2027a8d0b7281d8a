//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/serve"
)

// The descriptors that a worker inherits.
const (
	socketFD = 3 // the listening socket
	readyFD  = 4 // closed by the worker when it accepts
)

// work serves the inherited socket until SIGTERM.
func work(number int) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var t reuseport.Transport
	l, err := inherited(&t)
	if err != nil {
		return err
	}
	s := &serve.Server{Handler: worker(number).answer, ParkNew: true, IdleTimeout: patience}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	if err := os.NewFile(readyFD, "ready").Close(); err != nil {
		return err
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	return finish(s, &t)
}

// worker is a worker's number.
type worker int

// answer is a serve.Handler: it tells who it is for a line of whatever.
func (w worker) answer(c net.Conn) (serve.Handler, error) {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if _, err := bufio.NewReader(io.LimitReader(c, 256)).ReadString('\n'); err != nil {
		return nil, err
	}
	_, err := fmt.Fprintf(c, "worker %d pid %d\n", w, os.Getpid())
	return nil, err
}

// inherited makes a listener of t of the inherited socket.
func inherited(t *reuseport.Transport) (net.Listener, error) {
	f := os.NewFile(socketFD, "socket")
	nl, err := net.FileListener(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	l, err := t.WrapListener(nl.(*net.TCPListener))
	if err != nil {
		return nil, err
	}
	return manet.NetListener(l), nil
}

// finish serves what was accepted, and delivers what was answered.
func finish(s *serve.Server, t *reuseport.Transport) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		return err
	}
	return t.Shutdown(ctx)
}
