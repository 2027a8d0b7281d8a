package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
)

// payload is what each dial sends and expects back.
var payload = bytes.Repeat([]byte("reuseport "), 1000)

// step is one dial of the demonstration: what A dials, and what must happen.
type step struct {
	what   string
	target func(d *demonstration) (ma.Multiaddr, error)
	want   string // "reused", "new" or "refused"
}

var steps = []step{
	{"IPv4", func(d *demonstration) (ma.Multiaddr, error) { return d.b.on("127.0.0.1") }, "reused"},
	{"the same peer again", func(d *demonstration) (ma.Multiaddr, error) { return d.b.on("127.0.0.1") }, "new"},
	{"IPv6", func(d *demonstration) (ma.Multiaddr, error) { return d.b.on("::1") }, "reused"},
	{"by name", func(d *demonstration) (ma.Multiaddr, error) { return d.c.named() }, "reused"},
	{"its own listener", func(d *demonstration) (ma.Multiaddr, error) { return d.a.on("127.0.0.1") }, "new"},
	{"a closed port", func(d *demonstration) (ma.Multiaddr, error) { return closedPort() }, "refused"},
	{"after closing all", func(d *demonstration) (ma.Multiaddr, error) { d.hangUp(); return d.b.on("127.0.0.1") }, "reused"},
}

// demonstration is three peers on dual-stack ports. A dials; B and C answer.
type demonstration struct {
	a, b, c *host
	open    []io.Closer
}

// demo runs the steps and prints a table. It returns the exit status.
func demo(out io.Writer) int {
	d, err := newDemonstration()
	if err != nil {
		fmt.Fprintln(out, err)
		return 1
	}
	defer d.close()
	fmt.Fprintf(out, "%s/%s, port reuse available: %t\n", runtime.GOOS, runtime.GOARCH, reuseport.Available())
	fmt.Fprintf(out, "A listens on port %d, B on %d, C on %d, each for IPv4 and IPv6.\n\n", d.a.port, d.b.port, d.c.port)
	bad := d.table(out)
	s := d.a.transport.Stats()
	fmt.Fprintf(out, "\nA's dials: %d reused, %d from a new port, %d failed.\n", s.DialsReused, s.DialsNew, s.DialsFailed)
	if bad > 0 {
		fmt.Fprintf(out, "%d of %d dials did not end as expected.\n", bad, len(steps))
		return 1
	}
	fmt.Fprintln(out, "Every dial ended as expected.")
	return 0
}

func newDemonstration() (*demonstration, error) {
	d := &demonstration{}
	for _, h := range []**host{&d.a, &d.b, &d.c} {
		var err error
		if *h, err = newHost(); err != nil {
			d.close()
			return nil, err
		}
	}
	return d, nil
}

// table prints a row for each step and returns how many steps went wrong.
func (d *demonstration) table(out io.Writer) (bad int) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "A DIALS\tTARGET\tSOURCE PORT\tREUSED\tWHY NOT\tBYTES BACK\tAS EXPECTED")
	for _, s := range steps {
		r := d.dial(s)
		if !r.asExpected {
			bad++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", s.what, r.target, r.source, r.reused, r.why, r.bytes, yesNo(r.asExpected))
	}
	return bad
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// result is a row of the table.
type result struct {
	target, source, reused, why string
	bytes                       int
	asExpected                  bool
}

// dial makes the dial of one step. The connection stays open until hangUp.
func (d *demonstration) dial(s step) result {
	target, err := s.target(d)
	if err != nil {
		return result{target: "-", source: "-", reused: "-", why: err.Error()}
	}
	r := result{target: target.String(), source: "-", reused: "-"}
	conn, err := d.a.transport.Dial(target)
	if err != nil {
		r.why = err.Error()
		if refused := "connection refused"; strings.Contains(err.Error(), refused) { // Plan 9 has no errno to test for
			r.why = refused
			r.asExpected = s.want == "refused"
		}
		return r
	}
	d.open = append(d.open, conn)
	c := conn.(*reuseport.Conn)
	r.source = strconv.Itoa(c.LocalAddr().(*net.TCPAddr).Port)
	r.reused = yesNo(c.Reused())
	if !c.Reused() {
		r.why = c.Cause().String()
	}
	r.bytes, err = echo(c)
	r.asExpected = err == nil && c.Reused() == (s.want == "reused") && s.want != "refused"
	return r
}

// echo sends the payload and returns how many bytes came back.
func echo(c net.Conn) (int, error) {
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return 0, err
	}
	sent := make(chan error, 1)
	go func() { _, err := c.Write(payload); sent <- err }()
	got := make([]byte, len(payload))
	n, err := io.ReadFull(c, got)
	if !bytes.Equal(got, payload) {
		err = errors.Join(err, errors.New("the bytes that came back differ"))
	}
	return n, errors.Join(err, <-sent)
}

// hangUp closes the connections and waits until the 4-tuples are free.
func (d *demonstration) hangUp() {
	for _, c := range d.open {
		c.Close()
	}
	d.open = nil
	time.Sleep(200 * time.Millisecond) // the peers close when they read EOF
}

func (d *demonstration) close() {
	d.hangUp()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, h := range []*host{d.a, d.b, d.c} {
		if h != nil {
			h.transport.Shutdown(ctx)
		}
	}
}

// host is a peer: a Transport that listens on one port and echoes.
type host struct {
	transport reuseport.Transport
	port      uint16
}

func newHost() (*host, error) {
	h := &host{}
	l, err := h.transport.ListenPort(0)
	if err != nil {
		return nil, err
	}
	h.port = uint16(l.Addr().(*net.TCPAddr).Port)
	go serveEcho(l)
	return h, nil
}

func serveEcho(l manet.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // the transport is shut down
		}
		go func() {
			io.Copy(c, c) // ends when the peer closes; an error is the peer's concern
			c.Close()
		}()
	}
}

// on returns the host's address with the given IP.
func (h *host) on(ip string) (ma.Multiaddr, error) {
	return manet.FromNetAddr(&net.TCPAddr{IP: net.ParseIP(ip), Port: int(h.port)})
}

func (h *host) named() (ma.Multiaddr, error) {
	return ma.NewMultiaddr(fmt.Sprintf("/dns4/localhost/tcp/%d", h.port))
}

// closedPort returns an address on which nothing listens.
func closedPort() (ma.Multiaddr, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close() // before the dial; the port stays unused long enough
	return manet.FromNetAddr(l.Addr())
}
