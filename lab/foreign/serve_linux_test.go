package foreign_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// manner is how a service treats a connection.
type manner string

const (
	answers   manner = "answers"    // writes and closes
	replies   manner = "replies"    // reads something, writes and closes
	waits     manner = "waits"      // waits for a word, writes and closes
	pages     manner = "pages"      // speaks HTTP
	endsPages manner = "ends pages" // speaks HTTP/1.0 without a length: the end of the connection ends the page
)

// service asks a host to serve.
type service struct {
	Stack     stack
	At        string // address without a port
	Manner    manner
	Size      int  // of an answer
	Multipath bool // listen on a multipath socket, and serve nobody else
}

// serve serves until the test ends.
func (h *host) serve(_ context.Context, v service) (string, error) {
	l, err := h.listenFor(v)
	if err != nil {
		return "", err
	}
	addr, g := l.Addr().String(), newGate()
	h.mu.Lock()
	h.gates[addr] = g
	h.mu.Unlock()
	context.AfterFunc(h.ctx, func() { l.Close() })
	go serveAll(l, func(c net.Conn) error { return treat(c, v, g) })
	return addr, nil
}

// gate keeps the connections of a service until somebody gives the word.
type gate struct {
	arrived, word, closed chan struct{}
}

func newGate() *gate {
	const most = 1000 // connections of a service
	return &gate{make(chan struct{}, most), make(chan struct{}), make(chan struct{}, most)}
}

func (h *host) listenFor(v service) (net.Listener, error) {
	if !v.Multipath {
		return h.listen(v.Stack, v.At)
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(true)
	l, err := lc.Listen(h.ctx, "tcp", net.JoinHostPort(v.At, "0"))
	if err != nil || v.Stack == packageNet {
		return l, err
	}
	wrapped, err := h.tr.WrapListener(l.(*net.TCPListener))
	return manetListener{wrapped}, err
}

// opening names the connections that wait for a word.
type opening struct {
	Addr  string
	Conns int
}

// open waits until so many connections have arrived, gives them the word, and returns
// when they are closed.
func (h *host) open(ctx context.Context, o opening) (struct{}, error) {
	h.mu.Lock()
	g := h.gates[o.Addr]
	h.mu.Unlock()
	if err := receive(ctx, g.arrived, o.Conns); err != nil {
		return struct{}{}, err
	}
	close(g.word)
	return struct{}{}, receive(ctx, g.closed, o.Conns)
}

// receive receives n times.
func receive(ctx context.Context, c <-chan struct{}, n int) error {
	for range n {
		select {
		case <-c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func serveAll(l net.Listener, serve func(net.Conn) error) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			if err := serve(c); err != nil {
				fmt.Fprintln(os.Stderr, l.Addr(), err) // shown if the test fails
			}
		}()
	}
}

// treat serves one connection. It is the same for both stacks.
func treat(c net.Conn, v service, g *gate) error {
	if v.Multipath && !isMultipath(c) {
		return errors.Join(fmt.Errorf("%v is not multipath", c.RemoteAddr()), c.Close())
	}
	switch v.Manner {
	case replies:
		if _, err := c.Read(make([]byte, 1<<16)); err != nil {
			return errors.Join(err, c.Close())
		}
	case waits:
		g.arrived <- struct{}{}
		<-g.word
		defer func() { g.closed <- struct{}{} }()
	case pages, endsPages:
		return errors.Join(speakHTTP(c, v), c.Close())
	}
	return answer(c, v.Size)
}

// answer writes and closes at once.
func answer(c net.Conn, size int) error {
	_, err := c.Write(payload(size))
	return errors.Join(err, c.Close())
}

func isMultipath(c net.Conn) bool {
	tcp, ok := c.(interface{ MultipathTCP() (bool, error) })
	if !ok {
		return false
	}
	yes, err := tcp.MultipathTCP()
	return err == nil && yes
}

// speakHTTP answers requests until one of them is the last.
func speakHTTP(c net.Conn, v service) error {
	r, body := bufio.NewReader(c), payload(v.Size)
	for {
		if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
			return err
		}
		req, err := http.ReadRequest(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := c.Write(append(header(req, v), body...)); err != nil {
			return err
		}
		if req.Close || v.Manner == endsPages {
			return nil
		}
	}
}

// header returns the head of an answer.
func header(req *http.Request, v service) []byte {
	head := fmt.Sprintf("HTTP/%d.%d 200 OK\r\n", req.ProtoMajor, req.ProtoMinor)
	if v.Manner == endsPages {
		return []byte("HTTP/1.0 200 OK\r\n\r\n")
	}
	head += fmt.Sprintf("Content-Length: %d\r\n", v.Size)
	if req.Close {
		head += "Connection: close\r\n"
	} else if !req.ProtoAtLeast(1, 1) {
		head += "Connection: keep-alive\r\n"
	}
	return []byte(head + "\r\n")
}
