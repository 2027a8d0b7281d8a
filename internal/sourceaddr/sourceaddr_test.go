package sourceaddr_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/reusetransport/reuseport/internal/sourceaddr"
)

var targets = map[string]string{"127.0.0.9:9": "127.0.0.1", "[::1]:9": "::1"}

func TestSource(t *testing.T) {
	var a sourceaddr.Asker
	defer a.Close()
	for raddr, want := range targets {
		for range 3 { // the second question goes to a kept socket
			got, err := a.Source(t.Context(), netip.MustParseAddrPort(raddr), nil)
			if err != nil || got != netip.MustParseAddr(want) {
				t.Errorf("source towards %s: %v, %v; want %s", raddr, got, err, want)
			}
		}
	}
}

// TestSourceSendsNothing: a listener that is asked about sees no connection.
func TestSourceSendsNothing(t *testing.T) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var a sourceaddr.Asker
	raddr := l.Addr().(*net.TCPAddr).AddrPort()
	for range 10 {
		if _, err := a.Source(t.Context(), raddr, nil); err != nil {
			t.Fatal(err)
		}
	}
	a.Close()
	own, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	first, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if first.RemoteAddr().String() != own.LocalAddr().String() {
		t.Error("a question made a connection")
	}
	for _, c := range []interface{ Close() error }{own, first, l} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestSourceControl: the control function sees each socket that asks, and its error is the
// answer.
func TestSourceControl(t *testing.T) {
	var a sourceaddr.Asker
	defer a.Close()
	var calls atomic.Int32
	count := func(string, string, syscall.RawConn) error { calls.Add(1); return nil }
	denied := errors.New("denied")
	deny := func(string, string, syscall.RawConn) error { return denied }
	for raddr := range targets {
		to := netip.MustParseAddrPort(raddr)
		calls.Store(0)
		for range 2 {
			if _, err := a.Source(t.Context(), to, count); err != nil {
				t.Error(err)
			}
		}
		if n := calls.Load(); n != 2 {
			t.Errorf("control was called %d times for two questions about %s", n, raddr)
		}
		if _, err := a.Source(t.Context(), to, deny); !errors.Is(err, denied) {
			t.Errorf("denied by control: %v", err)
		}
	}
}

func TestSourceEndedContext(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var a sourceaddr.Asker
	defer a.Close()
	// A zone makes every system ask by UDP, which heeds the context.
	if _, err := a.Source(ended, netip.MustParseAddrPort("[fe80::1%lo]:9"), nil); err == nil {
		t.Error("a source although the context has ended")
	}
}
