package lab_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/lab"
)

// TestUnreachableCostsOneDial wants a missing route to end the dial at once: one socket, the
// errno, and no second try from another port. A neighbour that does not answer ends it when the
// kernel gives ARP up, after 3 s. Until then it cannot be told from a path that drops the port, so
// there is a hedge, with a question for its source; no packet leaves.
func TestUnreachableCostsOneDial(t *testing.T) {
	t.Parallel()
	n := lab.Start(t, one("unreached"))
	for addr, want := range map[string]string{
		"/ip4/192.0.0.99/tcp/1": "no route: 1 socket",     // beyond the host's only network
		"/ip4/10.1.0.99/tcp/1":  "no neighbour: 3 socket", // on it, but not there
	} {
		got, err := lab.Call[string](t.Context(), n, "a", "dial", addr)
		if err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", addr, got, err, want)
		}
	}
}

// unreached is a host that listens and dials hosts that cannot be reached.
func unreached(p *lab.Process) error {
	var sockets atomic.Int64
	tr := reuseport.Transport{Control: func(string, string, syscall.RawConn) error { sockets.Add(1); return nil }}
	if _, err := tr.ListenPort(4001); err != nil {
		return err
	}
	lab.Handle(p, "dial", func(ctx context.Context, addr string) (string, error) {
		raddr, err := ma.NewMultiaddr(addr)
		if err != nil {
			return "", err
		}
		sockets.Store(0)
		_, err = tr.DialContext(ctx, raddr)
		return describeUnreached(err, sockets.Load())
	})
	lab.Handle(p, "require", func(ctx context.Context, addr string) (rejected, error) {
		return reject(ctx, &tr, addr, func(raddr ma.Multiaddr) error {
			_, err := tr.DialContext(reuseport.WithPortUse(ctx, reuseport.RequireReuse), raddr)
			return err
		})
	})
	lab.Handle(p, "punch", func(ctx context.Context, addr string) (rejected, error) {
		ctx, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
		defer cancel()
		return reject(ctx, &tr, addr, func(raddr ma.Multiaddr) error {
			_, err := tr.Punch(ctx, raddr)
			return err
		})
	})
	return errors.Join(p.Serve(), tr.Shutdown(p.Context()))
}

// rejected is the result of a dial or a punch that fails.
type rejected struct {
	Err                              string
	NoAddress, TupleInUse, OutOfTime bool // what Err is
	SYNs                             int  // of a punch
}

func reject(ctx context.Context, tr *reuseport.Transport, addr string, connect func(ma.Multiaddr) error) (rejected, error) {
	raddr, err := ma.NewMultiaddr(addr)
	if err != nil {
		return rejected{}, err
	}
	before := tr.Stats().PunchSYNs
	if err = connect(raddr); err == nil {
		return rejected{}, errors.New("connected")
	}
	return rejected{
		Err:        err.Error(),
		NoAddress:  errors.Is(err, syscall.EADDRNOTAVAIL),
		TupleInUse: errors.Is(err, reuseport.ErrTupleInUse),
		OutOfTime:  errors.Is(err, context.DeadlineExceeded),
		SYNs:       int(tr.Stats().PunchSYNs - before),
	}, nil
}

// TestPunchProhibited wants a border that answers "administratively prohibited", as
// RFC 6092 demands of IPv6 gateways, to count as one that rejects: the punch goes on.
func TestPunchProhibited(t *testing.T) {
	t.Parallel()
	// Without the delay the answer would reach a socket that is still in connect, and
	// be ignored.
	near := lab.Wires{"near": {Delay: 5 * time.Millisecond}}
	n := lab.Start(t, lab.Topology{Wires: near, Hosts: lab.Hosts{
		"a": {On: lab.On{"near": "10.1.0.2/24 fd01::2/64"}, Via: "10.1.0.1 fd01::1", Role: "unreached"},
		"border": {On: lab.On{"near": "10.1.0.1/24 fd01::1/64"}, Forward: true,
			Sysctls: map[string]string{"net.ipv4.icmp_ratelimit": "0", "net.ipv6.icmp.ratelimit": "0"},
			Routes:  []lab.Route{{To: "10.8.0.0/24", Prohibit: true}, {To: "fd08::/64", Prohibit: true}}},
	}})
	for name, pick := range families() {
		got := call[rejected](t, n, "a", "punch", pick("/ip4/10.8.0.1/tcp/80", "/ip6/fd08::1/tcp/80"))
		if !got.OutOfTime || got.SYNs < 5 {
			t.Errorf("%s: %d SYNs, then %s", name, got.SYNs, got.Err)
		}
	}
}

// TestNoAddress wants the error of a host without IPv6 addresses to say so, and not
// that the 4-tuple is in use.
func TestNoAddress(t *testing.T) {
	t.Parallel()
	n := lab.Start(t, one("unreached"))
	if err := n.SetSysctl("a", "net.ipv6.conf.all.disable_ipv6", "1"); err != nil {
		t.Fatal(err)
	}
	for _, op := range []string{"require", "punch"} {
		got := call[rejected](t, n, "a", op, "/ip6/fd08::1/tcp/80")
		if !got.NoAddress || got.TupleInUse || got.OutOfTime {
			t.Errorf("%s: %s", op, got.Err)
		}
	}
}

func describeUnreached(err error, sockets int64) (string, error) {
	switch {
	case errors.Is(err, syscall.ENETUNREACH):
		return fmt.Sprintf("no route: %d socket", sockets), nil
	case errors.Is(err, syscall.EHOSTUNREACH):
		return fmt.Sprintf("no neighbour: %d socket", sockets), nil
	}
	return "", err
}
