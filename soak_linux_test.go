package reuseport_test

import (
	"errors"
	"flag"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
)

// soak is for what takes minutes: go test -race -soak -timeout 30m .
var soak = flag.Bool("soak", false, "dial 100,000 times in TestSoakCycles")

// TestSoakCycles dials, writes and closes 100,000 times, or 2,000 without -soak. The other side
// reads every byte and EOF.
func TestSoakCycles(t *testing.T) {
	cycles := 2000
	if *soak {
		cycles = 100_000
	}
	var us, them reuseport.Transport
	listen(t, &us, "/ip4/127.0.0.1/tcp/0")
	l := listenPort(t, &them)
	var bytes, ends atomic.Int64
	go acceptEach(l.Accept, func(c manet.Conn) {
		go func() {
			n, err := io.Copy(io.Discard, c)
			if bytes.Add(n); err != nil {
				t.Errorf("after %d bytes: %v", n, err)
			}
			c.Close()
			ends.Add(1)
		}()
	})
	want := cycleAll(t, &us, uint16(portOf(l.Addr())), cycles)
	wantDelivered(t, &us)
	await(t, "every connection has ended", func() bool { return ends.Load() == int64(cycles) })
	if s := us.Stats(); bytes.Load() != want || ends.Load() != int64(cycles) {
		t.Errorf("%d of %d bytes, %d of %d connections; %+v", bytes.Load(), want, ends.Load(), cycles, s)
	}
	t.Logf("%d reused, %d not: %v", us.Stats().DialsReused, us.Stats().DialsNew, us.Stats().NewByCause)
}

// cycleAll dials addresses of 127/8 in turn from 8 goroutines and returns how many bytes they
// wrote.
func cycleAll(t *testing.T, tr *reuseport.Transport, port uint16, cycles int) int64 {
	var next, wrote atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := next.Add(1); i <= int64(cycles); i = next.Add(1) {
				ip := netip.AddrFrom4([4]byte{127, 2, byte(i >> 8), byte(i)})
				c, err := tr.Dial(tcpMultiaddr(ip, port))
				if err != nil {
					t.Error(err)
					return
				}
				n, err := c.Write(pattern(int(i*7919) % 50_000))
				wrote.Add(int64(n))
				if err := errors.Join(err, c.Close()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	return wrote.Load()
}

// TestSoakSlowReader: a peer that reads for 20 s gets everything, although FlushTimeout is 5 s.
func TestSoakSlowReader(t *testing.T) {
	long(t, "reads for 20 s")
	t.Parallel()
	p := newClosePair(t, 0)
	data := pattern(4_000_000)
	done := writeThenClose(t, p.dialed, data)
	start := time.Now()
	wantDataThenEOF(t, slowly(p.accepted, len(data), 20*time.Second), data)
	<-done
	wantDelivered(t, &p.dialer)
	t.Logf("read for %v", time.Since(start))
}
