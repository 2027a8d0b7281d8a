package reuseport_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
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

// TestNamesRace: a silent or refusing address costs a dial of a name no more time and no more SYNs
// than it costs net.Dialer. Only where all are silent RFC 8305 sends more: one SYN to each address,
// and what the kernel repeats.
func TestNamesRace(t *testing.T) {
	if os.Getenv(insideVariable) == "" {
		runAgain(t, ownNetwork()) // where nobody else sends SYNs
		return
	}
	if err := setLoopback([]byte{127, 0, 0, 1}); err != nil {
		t.Fatal(err)
	}
	twenty := addrsOf(20)
	for _, row := range []struct {
		what  string
		addrs []string // of the name
		live  string
		quiet []string // drop all SYNs; other addresses refuse
		limit time.Duration
		extra int // SYNs more than net.Dialer's
	}{
		{"all fine", []string{"::1", "127.0.0.1"}, "::", nil, time.Second, 0},
		{"the first family refuses", []string{"::1", "127.0.0.1"}, "127.0.0.1", nil, time.Second, 0},
		{"the first family is unreachable", []string{"2001:db8::1", "127.0.0.1"}, "127.0.0.1", nil, time.Second, 0},
		{"the first family is silent", []string{"::1", "127.0.0.1"}, "127.0.0.1", []string{"::1"}, 2 * time.Second, 0},
		{"the first of twenty is silent", twenty, twenty[1], twenty[:1], 2 * time.Second, 0},
		{"nineteen of twenty refuse", twenty, twenty[19], nil, time.Second, 0},
		{"all are silent", twenty[:4], "", twenty[:4], 10 * time.Second, 3 * 4},
	} {
		port := ownPort()
		if row.live != "" {
			port = listenPlain(t, net.JoinHostPort(row.live, "0"))
		}
		for _, quiet := range row.quiet {
			silentAt(t, netip.AddrPortFrom(netip.MustParseAddr(quiet), port))
		}
		resolveBy(t, row.addrs...)
		var tr reuseport.Transport
		listenPort(t, &tr)
		var d net.Dialer
		d.SetMultipathTCP(false) // its SYNs are counted in other ways
		plain, plainSYNs := raceOnce(t, d.DialContext, port, row.live != "")
		ours, ourSYNs := raceOnce(t, tr.DialNetContext, port, row.live != "")
		t.Logf("%s: %v and %d SYNs; package net %v and %d", row.what, ours, ourSYNs, plain, plainSYNs)
		if ours > row.limit {
			t.Errorf("%s: took %v, package net %v", row.what, ours, plain)
		}
		if ourSYNs > plainSYNs+row.extra {
			t.Errorf("%s: %d SYNs, package net %d", row.what, ourSYNs, plainSYNs)
		}
	}
}

// raceOnce dials the name of resolveBy and returns how long it took and how many SYNs have left.
func raceOnce(t *testing.T, dial func(context.Context, string, string) (net.Conn, error), port uint16, lives bool) (took time.Duration, syns int) {
	t.Helper()
	before, start := synsSent(t), time.Now()
	c, err := dial(shortly(t, 3*time.Second), "tcp", net.JoinHostPort("peer.test", fmt.Sprint(port)))
	if (err == nil) != lives {
		t.Fatal(err)
	}
	if c != nil {
		c.Close()
	}
	return time.Since(start), synsSent(t) - before
}

// synsSent returns how many SYNs this network namespace has sent, repeated ones too.
func synsSent(t *testing.T) int {
	t.Helper()
	return kernelCount(t, "snmp", "ActiveOpens") + kernelCount(t, "netstat", "TCPSynRetrans")
}

// kernelCount reads a counter of this network namespace. The file has a line of names before each
// line of numbers.
func kernelCount(t *testing.T, file, name string) int {
	t.Helper()
	text, err := os.ReadFile("/proc/thread-self/net/" + file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		at := slices.Index(strings.Fields(line), name)
		if at < 0 {
			continue
		}
		n, err := strconv.Atoi(strings.Fields(lines[i+1])[at])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	t.Fatalf("no %s in %s", name, file)
	return 0
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
