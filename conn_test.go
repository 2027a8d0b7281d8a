//go:build !plan9

package reuseport_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"runtime"
	"testing"

	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/net/nettest"

	"github.com/reusetransport/reuseport"
)

// TestConnIsAConn runs x/net's suite for a net.Conn on connections that reuse a port.
func TestConnIsAConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		var us, them reuseport.Transport
		if _, err = us.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0")); err != nil {
			return
		}
		l, err := them.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
		if err != nil {
			return
		}
		out, err := us.Dial(l.Multiaddr())
		if err != nil {
			return
		}
		if !out.(*reuseport.Conn).Reused() {
			return nil, nil, nil, errors.New("not reused")
		}
		in, err := l.Accept()
		stop = func() {
			out.Close()
			in.Close()
			us.Shutdown(context.Background())
			them.Shutdown(context.Background())
		}
		return out, in, stop, err
	})
}

// TestConnDescribesItself: both ends of a connection tell their addresses and how it came about.
func TestConnDescribesItself(t *testing.T) {
	p := newClosePair(t, 0)
	for range 2 { // the second time from what is kept
		if !p.dialed.LocalMultiaddr().Equal(p.accepted.RemoteMultiaddr()) || !p.dialed.RemoteMultiaddr().Equal(p.target) {
			t.Errorf("%v -> %v, listening on %v", p.dialed.LocalMultiaddr(), p.dialed.RemoteMultiaddr(), p.target)
		}
	}
	if from, to := p.dialed.Direction().String(), p.accepted.Direction().String(); from != "dialed" || to != "accepted" {
		t.Errorf("directions %q and %q", from, to)
	}
	if p.accepted.Reused() || p.accepted.Cause() != reuseport.NoCause {
		t.Errorf("accepted, and reused %t: %v", p.accepted.Reused(), p.accepted.Cause())
	}
}

// TestCopiesBetweenConns: ReadFrom and io.CopyN from a *Conn copy no byte through the process, as
// package net does between two *net.TCPConn. A copy in the process would allocate a buffer.
func TestCopiesBetweenConns(t *testing.T) {
	linuxOnly(t)
	const n = 32 << 10
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	pair := func() (*reuseport.Conn, net.Conn) { // package net's end allocates nothing later
		theirs := dialPlain(t, l.Addr().String())
		return accept(t, l), theirs
	}
	for name, copyAll := range map[string]func(dst, src *reuseport.Conn) (int64, error){
		"CopyN":    func(dst, src *reuseport.Conn) (int64, error) { return io.CopyN(dst, src, n) },
		"Copy":     func(dst, src *reuseport.Conn) (int64, error) { return io.Copy(dst, src) },
		"ReadFrom": func(dst, src *reuseport.Conn) (int64, error) { return dst.ReadFrom(src) },
		"LimitedReader": func(dst, src *reuseport.Conn) (int64, error) {
			left := io.LimitedReader{R: src, N: n + 1}
			moved, err := dst.ReadFrom(&left)
			if left.N != 1 {
				t.Errorf("%d bytes left of the limit, want 1", left.N)
			}
			return moved, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			least := uint64(math.MaxUint64) // of some tries, since other goroutines allocate too
			for range 5 {
				in, source := pair()
				out, sink := pair()
				<-writeThenClose(t, source, pattern(n))
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				moved, err := copyAll(out, in)
				runtime.ReadMemStats(&after)
				if moved != n || err != nil {
					t.Fatalf("%d bytes, %v", moved, err)
				}
				out.Close()
				wantDataThenEOF(t, sink, pattern(n))
				least = min(least, after.TotalAlloc-before.TotalAlloc)
			}
			if least > n/2 {
				t.Errorf("%d bytes allocated to copy %d", least, n)
			}
		})
	}
}
