package reuseport_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/reusetransport/reuseport"
)

// These tests dial names with several addresses, beside net.Dialer.

// addrsOf returns n addresses of the kind 127.8.0.1.
func addrsOf(n int) (addrs []string) {
	for i := range n {
		addrs = append(addrs, netip.AddrFrom4([4]byte{127, 8, byte(i >> 8), byte(i + 1)}).String())
	}
	return addrs
}

// listenPlain listens with package net.
func listenPlain(t *testing.T, address string) (port uint16) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return uint16(portOf(l.Addr()))
}

// TestNamesRace: a silent or refusing address costs a dial of a name no more than it costs
// net.Dialer.
func TestNamesRace(t *testing.T) {
	twenty := addrsOf(20)
	for _, row := range []struct {
		what  string
		addrs []string // of the name
		live  string
		quiet []string // drop all SYNs; other addresses refuse
		limit time.Duration
	}{
		{"all fine", []string{"::1", "127.0.0.1"}, "127.0.0.1", nil, time.Second},
		{"the first family refuses", []string{"::1", "127.0.0.1"}, "127.0.0.1", nil, time.Second},
		{"the first family is silent", []string{"::1", "127.0.0.1"}, "127.0.0.1", []string{"::1"}, 2 * time.Second},
		{"the first of twenty is silent", twenty, twenty[1], twenty[:1], 2 * time.Second},
		{"nineteen of twenty refuse", twenty, twenty[19], nil, time.Second},
	} {
		port := listenPlain(t, net.JoinHostPort(row.live, "0"))
		for _, quiet := range row.quiet {
			silentAt(t, netip.AddrPortFrom(netip.MustParseAddr(quiet), port))
		}
		resolveBy(t, row.addrs...)
		address := net.JoinHostPort("peer.test", fmt.Sprint(port))
		ctx := shortly(t, 10*time.Second)
		took := map[string]time.Duration{}
		for who, dial := range map[string]func(context.Context, string, string) (net.Conn, error){
			"net": new(net.Dialer).DialContext, "reuseport": new(reuseport.Transport).DialNetContext,
		} {
			start := time.Now()
			c, err := dial(ctx, "tcp", address)
			if err != nil {
				t.Fatalf("%s, %s: %v", row.what, who, err)
			}
			c.Close()
			took[who] = time.Since(start)
		}
		t.Logf("%s: %v; package net %v", row.what, took["reuseport"], took["net"])
		if took["reuseport"] > row.limit {
			t.Errorf("%s: took %v, package net %v", row.what, took["reuseport"], took["net"])
		}
	}
}

// TestNameAllSilent: a dial whose addresses are all silent ends with its context, or at Timeout,
// and is a timeout to everybody who asks.
func TestNameAllSilent(t *testing.T) {
	addrs := addrsOf(3)
	port := silentOn(t, netip.MustParseAddr(addrs[0]))
	for _, other := range addrs[1:] {
		silentAt(t, netip.AddrPortFrom(netip.MustParseAddr(other), port))
	}
	resolveBy(t, addrs...)
	for _, delay := range []time.Duration{0, 10 * time.Millisecond, -1} {
		tr := reuseport.Transport{Timeout: 300 * time.Millisecond, FallbackDelay: delay}
		listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
		start := time.Now()
		_, err := tr.DialNetContext(t.Context(), "tcp", net.JoinHostPort("peer.test", fmt.Sprint(port)))
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("FallbackDelay %v: took %v", delay, d)
		}
		wantTimeout(t, err)
		wantErr(t, err, context.DeadlineExceeded)
	}
}

func wantTimeout(t *testing.T, err error) {
	t.Helper()
	var timeout interface{ Timeout() bool }
	if e, ok := err.(net.Error); !ok || !e.Timeout() || !os.IsTimeout(err) || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%#v is no timeout: %v", err, err)
	}
}

// TestNameOfHundreds: of a name's addresses 32 are dialed. The error has all of them, and its
// text four.
func TestNameOfHundreds(t *testing.T) {
	resolveBy(t, addrsOf(40)...) // as many as a DNS message holds
	var sockets atomic.Int32
	tr := reuseport.Transport{Control: attempts(&sockets)}
	_, err := tr.DialNetContext(shortly(t, 10*time.Second), "tcp", net.JoinHostPort("peer.test", fmt.Sprint(ownPort())))
	wantErr(t, err, syscall.ECONNREFUSED)
	var several *reuseport.DialError
	if !errors.As(err, &several) || len(several.Unwrap()) != 32 || sockets.Load() != 32 {
		t.Fatalf("%d sockets; %v", sockets.Load(), err)
	}
	if text := err.Error(); strings.Count(text, "refused") != 4 || !strings.HasSuffix(text, "; and 28 more") || strings.Contains(text, "\n") {
		t.Error(text)
	}
}

// TestNamePrefersServedFamily: the family that a listener serves comes first, unless the dial is to
// leave from a new port.
func TestNamePrefersServedFamily(t *testing.T) {
	port := listenPlain(t, "127.0.0.1:0")
	l6, err := net.Listen("tcp", net.JoinHostPort("::1", fmt.Sprint(port)))
	if err != nil {
		t.Fatal(err)
	}
	defer l6.Close()
	resolveBy(t, "::1", "127.0.0.1")
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/0.0.0.0/tcp/0")
	for use, want := range map[reuseport.PortUse]string{
		reuseport.PreferReuse: "127.0.0.1", reuseport.RequireReuse: "127.0.0.1", reuseport.NewPort: "::1",
	} {
		c, err := tr.DialNetContext(reuseport.WithPortUse(t.Context(), use), "tcp", net.JoinHostPort("peer.test", fmt.Sprint(port)))
		if err != nil {
			t.Fatal(err)
		}
		if host := c.RemoteAddr().(*net.TCPAddr).IP.String(); host != want || c.(*reuseport.Conn).Reused() != (use != reuseport.NewPort) {
			t.Errorf("%v: connected to %s, want %s; reused %v", use, host, want, c.(*reuseport.Conn).Reused())
		}
		abort(t, c.(*reuseport.Conn))
	}
}

// TestUnspecifiedTarget: [::] and the empty host reach what they reach in package net.
func TestUnspecifiedTarget(t *testing.T) {
	var tr reuseport.Transport
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", "[::]:0"} {
		port := fmt.Sprint(listenPlain(t, address))
		for _, network := range []string{"tcp", "tcp4", "tcp6"} {
			for _, host := range []string{"", "::", "0.0.0.0"} {
				to := net.JoinHostPort(host, port)
				want, errNet := net.Dial(network, to)
				got, err := tr.DialNetContext(t.Context(), network, to)
				if (err == nil) != (errNet == nil) || err == nil && got.RemoteAddr().String() != want.RemoteAddr().String() {
					t.Errorf("listener %s, dial %s %s: %v, %v; package net %v, %v", address, network, to, got, err, want, errNet)
				}
				for _, c := range []net.Conn{want, got} {
					if c != nil {
						c.Close()
					}
				}
			}
		}
	}
}
