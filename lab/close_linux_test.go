package lab_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/lab"
)

// These tests close connections over a wire with delay and loss. The host "server"
// listens on many ports, so that "client" can have many connections from one port.
// Each of them writes and closes at once.

// manner is how the server treats a connection.
type manner string

const (
	reads  manner = "reads"  // reads to EOF, then closes
	holds  manner = "holds"  // reads to EOF and keeps the connection
	talks  manner = "talks"  // writes data that the client does not read, then reads
	closes manner = "closes" // writes as much as the client and closes at once, without reading
)

// closeServe asks the server to listen.
type closeServe struct {
	Ports  int
	Manner manner
	Size   int
	At     string // multiaddr without the port; empty = 192.0.0.66
}

// closeServed is what the server saw of one connection.
type closeServed struct {
	Bytes int64
	End   string // "EOF", "reset", or the error
}

// closeServer is the server.
type closeServer struct {
	tr    *reuseport.Transport
	order closeServe
	ends  chan closeServed
}

func closeRole(p *lab.Process) error {
	s := &closeServer{}
	lab.Handle(p, "serve", s.serve)
	lab.Handle(p, "ends", s.collect)
	lab.Handle(p, "closed", s.closed)
	lab.Handle(p, "write", writeAndClose)
	lab.Handle(p, "redial", redialAll)
	return p.Serve()
}

// serve listens with a Transport of its own and returns the addresses.
func (s *closeServer) serve(ctx context.Context, order closeServe) ([]string, error) {
	s.tr, s.order, s.ends = &reuseport.Transport{}, order, make(chan closeServed, 10_000)
	var addrs []string
	for range order.Ports {
		l, err := s.tr.Listen(ma.StringCast(cmp.Or(order.At, "/ip4/192.0.0.66") + "/tcp/0"))
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, l.Multiaddr().String())
		context.AfterFunc(ctx, func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go s.treat(ctx, c)
			}
		}()
	}
	return addrs, nil
}

// treat handles one connection as the order says.
func (s *closeServer) treat(ctx context.Context, c net.Conn) {
	if s.order.Manner == closes {
		s.ends <- closeServed{End: fmt.Sprint(writeSome(c, s.order.Size))}
		return
	}
	if s.order.Manner == talks {
		if _, err := c.Write(make([]byte, 20_000)); err != nil {
			s.ends <- closeServed{End: err.Error()}
			return
		}
	}
	n, err := io.Copy(io.Discard, c)
	s.ends <- closeServed{n, endOf(err)}
	if s.order.Manner == holds {
		context.AfterFunc(ctx, func() { c.Close() })
		return
	}
	c.Close()
}

func endOf(err error) string {
	switch {
	case err == nil:
		return "EOF"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	}
	return err.Error()
}

// collect returns what the server saw of n connections, after they have ended.
func (s *closeServer) collect(ctx context.Context, n int) ([]closeServed, error) {
	ends := make([]closeServed, n)
	for i := range ends {
		select {
		case ends[i] = <-s.ends:
		case <-time.After(60 * time.Second):
			return nil, fmt.Errorf("%d of %d connections ended", i, n)
		}
	}
	return ends, nil
}

// closed waits for the pending closes of the server and returns the counters.
func (s *closeServer) closed(ctx context.Context, _ struct{}) (reuseport.Stats, error) {
	err := s.tr.Shutdown(ctx)
	return s.tr.Stats(), err
}

// closeWrite asks the client for one connection to each address.
type closeWrite struct {
	To           []string
	Size         int
	FlushTimeout time.Duration
	Pause        time.Duration // before the write, for the server's data to arrive
	Some         bool          // write only what the buffers take
}

// writeAndClose writes and closes at once on all connections, then waits until no
// close is pending.
func writeAndClose(ctx context.Context, w closeWrite) (reuseport.Stats, error) {
	tr := &reuseport.Transport{FlushTimeout: w.FlushTimeout}
	if _, err := tr.Listen(ma.StringCast("/ip4/192.0.0.65/tcp/0")); err != nil {
		return reuseport.Stats{}, err
	}
	errs := make(chan error)
	for _, to := range w.To {
		go func() { errs <- writeOnce(ctx, tr, to, w) }()
	}
	var all []error
	for range w.To {
		all = append(all, <-errs)
	}
	all = append(all, tr.Shutdown(ctx))
	return tr.Stats(), errors.Join(all...)
}

func writeOnce(ctx context.Context, tr *reuseport.Transport, to string, w closeWrite) error {
	c, err := tr.DialContext(ctx, ma.StringCast(to))
	if err != nil {
		return err
	}
	time.Sleep(w.Pause)
	if w.Some {
		return writeSome(c, w.Size)
	}
	_, err = c.Write(make([]byte, w.Size))
	return errors.Join(err, c.Close())
}

// writeSome writes as much of size as the buffers take while the other side does not
// read, and closes at once.
func writeSome(c net.Conn, size int) error {
	if err := c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		return err
	}
	_, err := c.Write(make([]byte, size))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return errors.Join(err, c.Close())
}

// closeRedial asks the client to dial each address again and again.
type closeRedial struct {
	To    []string
	Times int
	Size  int // written right before each Close
	Quiet bool
	From  string // multiaddr without the port; empty = 192.0.0.65
	Index bool   // the zone "wire" is given by its index
}

// redialed counts the results of the redials.
type redialed struct {
	Reused, New int
	Causes      map[string]int
	Stats       reuseport.Stats
}

// redialAll dials, writes, closes and dials again at once.
func redialAll(ctx context.Context, r closeRedial) (redialed, error) {
	tr := &reuseport.Transport{}
	if _, err := tr.Listen(ma.StringCast(cmp.Or(r.From, "/ip4/192.0.0.65") + "/tcp/0")); err != nil {
		return redialed{}, err
	}
	if r.Index {
		wire, err := net.InterfaceByName("wire")
		if err != nil {
			return redialed{}, err
		}
		for i, to := range r.To {
			r.To[i] = strings.Replace(to, "/ip6zone/wire/", fmt.Sprintf("/ip6zone/%d/", wire.Index), 1)
		}
	}
	out := redialed{Causes: map[string]int{}}
	var mu sync.Mutex
	count := func(c *reuseport.Conn) {
		mu.Lock()
		defer mu.Unlock()
		if c.Reused() {
			out.Reused++
			return
		}
		out.New++
		out.Causes[c.Cause().String()]++
	}
	errs := make(chan error)
	for _, to := range r.To {
		go func() { errs <- redial(ctx, tr, to, r, count) }()
	}
	var all []error
	for range r.To {
		all = append(all, <-errs)
	}
	all = append(all, tr.Shutdown(ctx))
	out.Stats = tr.Stats()
	return out, errors.Join(all...)
}

func redial(ctx context.Context, tr *reuseport.Transport, to string, r closeRedial, count func(*reuseport.Conn)) error {
	for i := range r.Times {
		c, err := tr.DialContext(ctx, ma.StringCast(to))
		if err != nil {
			return err
		}
		if i > 0 { // the first dial is not a redial
			count(c.(*reuseport.Conn))
		}
		_, err = c.Write(make([]byte, r.Size))
		if r.Quiet {
			time.Sleep(100 * time.Millisecond) // until it is acknowledged
		}
		if err := errors.Join(err, c.Close()); err != nil {
			return err
		}
	}
	return nil
}

// closeNetwork returns two hosts on a wire.
//
//	client ── wire ── server
func closeNetwork(t *testing.T, wire lab.Wire, timestamps string) *lab.Network {
	sysctls := map[string]string{"net.ipv4.tcp_timestamps": timestamps}
	return lab.Start(t, lab.Topology{
		Wires: lab.Wires{"wire": wire},
		Hosts: lab.Hosts{
			"client": {On: lab.On{"wire": "192.0.0.65/24 fe80::65/64"}, Role: "close", Sysctls: sysctls},
			"server": {On: lab.On{"wire": "192.0.0.66/24 fe80::66/64"}, Role: "close", Sysctls: sysctls},
		},
	})
}

var lossy = lab.Wire{Delay: 25 * time.Millisecond, Loss: 0.02}

// TestCloseDelivers writes and closes at once, at 50 ms round trip and with 2 % of
// the frames lost. Everything must arrive, followed by EOF.
func TestCloseDelivers(t *testing.T) {
	const conns = 20
	for _, m := range []manner{reads, holds, talks} {
		for _, size := range []int{0, 1, 100_000, 2_000_000} {
			t.Run(fmt.Sprintf("%s %d", m, size), func(t *testing.T) {
				t.Parallel()
				n := closeNetwork(t, lossy, "1")
				to := call[[]string](t, n, "server", "serve", closeServe{Ports: conns, Manner: m, Size: size})
				s := call[reuseport.Stats](t, n, "client", "write",
					closeWrite{To: to, Size: size, Pause: 200 * time.Millisecond})
				if s.DialsReused != conns || s.ClosesAborted+s.ClosesReset+s.BytesUndelivered != 0 {
					t.Errorf("%+v", s)
				}
				for _, e := range call[[]closeServed](t, n, "server", "ends", conns) {
					if e.Bytes != int64(size) || e.End != "EOF" {
						t.Errorf("the server read %d of %d bytes, then %s", e.Bytes, size, e.End)
					}
				}
			})
		}
	}
}

// TestCloseDeliversBoth makes both sides write and close at once without reading.
// Everything must be acknowledged on both sides.
func TestCloseDeliversBoth(t *testing.T) {
	const conns = 20
	for _, size := range []int{1, 100_000, 2_000_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			n := closeNetwork(t, lossy, "1")
			to := call[[]string](t, n, "server", "serve", closeServe{Ports: conns, Manner: closes, Size: size})
			ours := call[reuseport.Stats](t, n, "client", "write", closeWrite{To: to, Size: size, Some: true})
			for _, e := range call[[]closeServed](t, n, "server", "ends", conns) {
				if e.End != "<nil>" {
					t.Error(e.End)
				}
			}
			theirs := call[reuseport.Stats](t, n, "server", "closed", struct{}{})
			for _, s := range []reuseport.Stats{ours, theirs} {
				if s.ClosesAborted+s.ClosesReset+s.BytesUndelivered != 0 {
					t.Errorf("%+v", s)
				}
			}
		})
	}
}

// TestCloseControl shows that the same loses data without delivery.
func TestCloseControl(t *testing.T) {
	const conns = 20
	n := closeNetwork(t, lossy, "1")
	to := call[[]string](t, n, "server", "serve", closeServe{Ports: conns, Manner: reads})
	call[reuseport.Stats](t, n, "client", "write", closeWrite{To: to, Size: 100_000, FlushTimeout: -1})
	whole := 0
	for _, e := range call[[]closeServed](t, n, "server", "ends", conns) {
		if e.Bytes == 100_000 {
			whole++
		}
	}
	if t.Logf("%d of %d arrived whole", whole, conns); whole > conns/2 {
		t.Error("the control loses too little to prove anything")
	}
}

// TestCloseRedial dials again right after Close, from the listening port.
func TestCloseRedial(t *testing.T) {
	for _, timestamps := range []string{"1", "0"} {
		for _, m := range []manner{reads, holds} {
			for _, quiet := range []bool{true, false} {
				name := fmt.Sprintf("timestamps %s, server %s, quiet %v", timestamps, m, quiet)
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					testCloseRedial(t, timestamps, m, quiet)
				})
			}
		}
	}
}

func testCloseRedial(t *testing.T, timestamps string, m manner, quiet bool) {
	const ports, times = 40, 6 // 200 redials
	n := closeNetwork(t, lab.Wire{Delay: 10 * time.Millisecond}, timestamps)
	to := call[[]string](t, n, "server", "serve", closeServe{Ports: ports, Manner: m})
	out := call[redialed](t, n, "client", "redial", closeRedial{To: to, Times: times, Size: 10_000, Quiet: quiet})
	t.Logf("%d of %d redials reused; else: %v", out.Reused, ports*(times-1), out.Causes)
	for _, e := range call[[]closeServed](t, n, "server", "ends", ports*times) {
		if e.Bytes != 10_000 || e.End != "EOF" {
			t.Errorf("the server read %d bytes, then %s", e.Bytes, e.End)
		}
	}
	if (timestamps == "1" || m == holds) && out.Reused < 196 {
		t.Error("not enough")
	}
}

// TestCloseRedialZone redials a link-local address, naming its zone and giving its
// index. Both must find the close that holds the 4-tuple.
func TestCloseRedialZone(t *testing.T) {
	const ports, times = 5, 5
	for _, index := range []bool{false, true} {
		for _, from := range []string{"/ip6/::", "/ip6zone/wire/ip6/fe80::65"} {
			t.Run(fmt.Sprintf("from %s, by index %v", from, index), func(t *testing.T) {
				t.Parallel()
				n := closeNetwork(t, lab.Wire{Delay: time.Millisecond}, "1")
				to := call[[]string](t, n, "server", "serve", closeServe{Ports: ports, Manner: holds, At: "/ip6zone/wire/ip6/fe80::66"})
				out := call[redialed](t, n, "client", "redial", closeRedial{To: to, Times: times, Size: 1000, From: from, Index: index})
				if out.New > 0 || out.Reused != ports*(times-1) {
					t.Errorf("%d redials reused; else: %v", out.Reused, out.Causes)
				}
			})
		}
	}
}
