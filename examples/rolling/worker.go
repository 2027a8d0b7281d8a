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
	readyFD  = 4 // gets a byte when the worker accepts
)

// work serves the inherited socket until SIGTERM. A terminal sends the other signals
// to all processes of the group; the supervisor acts on them.
func work(number int) error {
	signal.Ignore(os.Interrupt, syscall.SIGHUP)
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
	if err := sayReady(); err != nil {
		return err
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	return finish(s, &t)
}

// sayReady tells the supervisor that this worker accepts.
func sayReady() error {
	f := os.NewFile(readyFD, "ready")
	_, err := f.Write([]byte{1})
	return errors.Join(err, f.Close())
}

// worker is the number of a worker.
type worker int

// answer is a serve.Handler: it reads a line and answers with who it is.
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

// inherited wraps the inherited socket in a listener of t.
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

// finish serves what has been accepted and delivers what has been answered.
func finish(s *serve.Server, t *reuseport.Transport) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		return err
	}
	return t.Shutdown(ctx)
}
