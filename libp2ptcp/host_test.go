package libp2ptcp_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

// TestInterop connects hosts with this transport and with go-libp2p's own, in both
// directions and with either handshake.
func TestInterop(t *testing.T) {
	handshakes := map[string]libp2p.Option{
		"noise": libp2p.Security(noise.ID, noise.New),
		"tls":   libp2p.Security(libp2ptls.ID, libp2ptls.New),
	}
	for name, handshake := range handshakes {
		for from, options := range map[string][2]libp2p.Option{
			"ours to stock": {ours(), stock()},
			"stock to ours": {stock(), ours()},
			"ours to ours":  {ours(), ours()},
		} {
			t.Run(name+" "+from, func(t *testing.T) {
				a, b := newHost(t, handshake, options[0]), newHost(t, handshake, options[1])
				echo(b)
				connect(t, a, b)
				converse(t, a, b)
			})
		}
	}
}

// converse sends a megabyte to b and demands it back.
func converse(t testing.TB, a, b host.Host) {
	t.Helper()
	s, err := a.NewStream(t.Context(), b.ID(), "/echo")
	check(t, err)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() {
		if _, err := s.Write(sent); err == nil {
			_ = s.CloseWrite() // the reader notices a failure
		}
	}()
	got, err := io.ReadAll(s)
	check(t, err)
	check(t, s.Close())
	if !bytes.Equal(got, sent) {
		t.Errorf("%d bytes came back, not the %d sent", len(got), len(sent))
	}
}

// meshResult counts the results of a mesh.
type meshResult struct {
	missing, doubled int   // pairs
	failed           int64 // dials that returned an error
	reused           int   // connections from one listening port to another
}

func (r meshResult) String() string {
	return fmt.Sprintf("%d pairs unconnected, %d doubled, %d dials failed, %d connections from listening ports",
		r.missing, r.doubled, r.failed, r.reused)
}

// meshSize is the number of hosts in TestMesh.
const meshSize = 40

// TestMesh makes 40 hosts all dial each other, with our transport and then with
// go-libp2p's. Two hosts that dial each other at the same time are the hardest case,
// because both use one 4-tuple.
func TestMesh(t *testing.T) {
	mesh := func(transport libp2p.Option) meshResult {
		hosts := make([]host.Host, meshSize)
		for i := range hosts {
			hosts[i] = newHost(t, transport)
		}
		r := meshResult{failed: dialAll(t, hosts)}
		r.count(hosts)
		for _, h := range hosts {
			check(t, h.Close())
		}
		return r
	}
	mine := mesh(ours())
	theirs := mesh(stock())
	t.Logf("%d hosts, ours:  %v", meshSize, mine)
	t.Logf("%d hosts, stock: %v", meshSize, theirs)
	if mine.missing > 0 {
		t.Errorf("%d of %d pairs not connected", mine.missing, meshSize*(meshSize-1)/2)
	}
	if mine.doubled > theirs.doubled {
		t.Errorf("%d pairs have more than one connection, with the stock transport %d", mine.doubled, theirs.doubled)
	}
}

// dialAll makes both hosts of each pair dial each other at the same time, in rounds
// in which every host has one partner, and returns how many dials failed. If both
// dials of a pair fail, it dials again: their SYNs crossed, TCP made one connection
// of them, and both hosts were the client of its handshake.
func dialAll(t testing.TB, hosts []host.Host) int64 {
	var failed atomic.Int64
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	for round := range len(hosts) - 1 {
		var wg sync.WaitGroup
		for i, a := range hosts {
			b := hosts[partner(i, round, len(hosts))]
			wg.Go(func() {
				if a.Connect(ctx, *host.InfoFromHost(b)) != nil {
					failed.Add(1)
				}
			})
		}
		wg.Wait()
		for i, a := range hosts {
			b := hosts[partner(i, round, len(hosts))]
			if a.Network().Connectedness(b.ID()) != network.Connected {
				check(t, a.Connect(network.WithForceDirectDial(ctx, "again"), *host.InfoFromHost(b)))
			}
		}
	}
	return failed.Load()
}

// partner returns the host that host i of n meets in a round, by the circle method:
// the last one stands still and the others turn.
func partner(i, round, n int) int {
	last := n - 1
	switch {
	case i == last:
		return round
	case i == round:
		return last
	}
	return (2*round - i + last) % last
}

// count visits each pair once.
func (r *meshResult) count(hosts []host.Host) {
	for i, a := range hosts {
		for _, b := range hosts[:i] {
			conns := a.Network().ConnsToPeer(b.ID())
			switch len(conns) {
			case 0:
				r.missing++
			case 1:
			default:
				r.doubled++
			}
			for _, c := range conns {
				if fromListener(c, a, b) {
					r.reused++
				}
			}
		}
	}
}

// fromListener reports whether both ends of c are listening ports.
func fromListener(c network.Conn, a, b host.Host) bool {
	return c.LocalMultiaddr().Equal(a.Network().ListenAddresses()[0]) &&
		c.RemoteMultiaddr().Equal(b.Network().ListenAddresses()[0])
}
