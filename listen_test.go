//go:build !plan9

package reuseport_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/internal/sockopt"
)

// TestListenPort: one socket serves both families, and IPv4 peers show as IPv4.
func TestListenPort(t *testing.T) {
	var tr reuseport.Transport
	l := listenPort(t, &tr)
	port := portOf(l.Addr())
	for _, row := range []struct{ ip, remote string }{{"127.0.0.1", "/ip4/127.0.0.1/tcp/"}, {"::1", "/ip6/::1/tcp/"}} {
		c, err := net.Dial("tcp", net.JoinHostPort(row.ip, strconv.Itoa(port)))
		if err != nil {
			skip(t, "no dual-stack: %v", err)
		}
		in := accept(t, l)
		want := row.remote + strconv.Itoa(portOf(c.LocalAddr()))
		if got := in.RemoteMultiaddr().String(); got != want {
			t.Errorf("peer shows as %s, want %s", got, want)
		}
		c.Close()
	}
}

// TestExclusive: listening on a port in use is an error, however the other one listens and
// whoever is first.
func TestExclusive(t *testing.T) {
	ip := ownIP()
	lc := net.ListenConfig{Control: sockopt.SetReuse}
	others := map[string]func(string) (io.Closer, error){
		"net.Listen":    func(a string) (io.Closer, error) { return net.Listen("tcp", a) },
		"SO_REUSEPORT":  func(a string) (io.Closer, error) { return lc.Listen(context.Background(), "tcp", a) },
		"a Transport":   func(a string) (io.Closer, error) { return listenOn(new(reuseport.Transport), a) },
		"a shared port": func(a string) (io.Closer, error) { return listenOn(&reuseport.Transport{Shared: true}, a) },
	}
	for name, other := range others {
		t.Run(name+" first", func(t *testing.T) {
			port := ownPort()
			first, err := other(fmt.Sprintf("%v:%d", ip, port))
			if err != nil {
				t.Fatal(err)
			}
			defer first.Close()
			l, err := new(reuseport.Transport).Listen(tcpMultiaddr(ip, port))
			wantErr(t, err, syscall.EADDRINUSE)
			if l != nil {
				l.Close()
			}
		})
	}
	for _, name := range []string{"net.Listen", "a Transport"} {
		t.Run(name+" second", func(t *testing.T) {
			port := ownPort()
			l, err := new(reuseport.Transport).Listen(tcpMultiaddr(ip, port))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			_, err = others[name](fmt.Sprintf("%v:%d", ip, port))
			wantErr(t, err, syscall.EADDRINUSE)
		})
	}
}

func listenOn(tr *reuseport.Transport, address string) (io.Closer, error) {
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, err
	}
	m, err := manet.FromNetAddr(a)
	if err != nil {
		return nil, err
	}
	return tr.Listen(m)
}

// TestTwoStartersOneWins: of two processes that listen on one address at the same time exactly
// one gets it.
func TestTwoStartersOneWins(t *testing.T) {
	a, b := startChild(t, "listen"), startChild(t, "listen")
	for i := range rounds(1000, 100) {
		addr := tcpMultiaddr(ownIP(), ownPort()).String()
		a.send(t, addr)
		b.send(t, addr)
		got := [2]string{a.receive(t), b.receive(t)}
		if got != [2]string{"listening", "in use"} && got != [2]string{"in use", "listening"} {
			t.Fatalf("round %d on %s: %q", i, addr, got)
		}
	}
}

// TestWildcardBesideSpecific: one Transport listens on a specific address and on all addresses
// of one port, in either order, and both listeners serve.
func TestWildcardBesideSpecific(t *testing.T) {
	linuxOnly(t)
	specific, wildcard := ownIP(), netip.IPv4Unspecified()
	for _, order := range [][2]netip.Addr{{specific, wildcard}, {wildcard, specific}} {
		port := ownPort()
		var tr reuseport.Transport
		ls := make(map[netip.Addr]manet.Listener)
		for _, ip := range order {
			ls[ip] = listen(t, &tr, tcpMultiaddr(ip, port).String())
		}
		for ip, target := range map[netip.Addr]netip.Addr{specific: specific, wildcard: localhost} {
			c := dialPlain(t, netip.AddrPortFrom(target, port).String())
			if in := accept(t, ls[ip]); in.RemoteAddr().String() != c.LocalAddr().String() {
				t.Errorf("order %v: the listener on %v got %v", order, ip, in.RemoteAddr())
			}
		}
	}
}

// TestWrapListenerErrors: a listener that cannot be wrapped stays its owner's.
func TestWrapListenerErrors(t *testing.T) {
	var tr reuseport.Transport
	_, err := tr.WrapListener(nil)
	wantErr(t, err, syscall.EINVAL)
	l := openTCP(t)
	l.Close()
	_, err = tr.WrapListener(l)
	wantErr(t, err, net.ErrClosed)
	if err := tr.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	l = openTCP(t)
	_, err = tr.WrapListener(l)
	wantErr(t, err, net.ErrClosed)
	if err := l.Close(); err != nil {
		t.Error("the caller's listener was closed: ", err)
	}
	if n := tr.Stats().Listeners; n != 0 {
		t.Errorf("%d listeners", n)
	}
}

// TestRestart: a port can be listened on again at once while connections of the first run,
// accepted and dialed, live on.
func TestRestart(t *testing.T) {
	var first, second reuseport.Transport
	l := listen(t, &first, tcpMultiaddr(ownIP(), ownPort()).String())
	dialPlain(t, l.Addr().String())
	in := accept(t, l)
	dialed := dial(t, &first, peer(t, "127.0.0.1:0"))
	if !dialed.Reused() {
		t.Fatal("not reused: ", dialed.Cause())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	listen(t, &second, l.Multiaddr().String())
	for _, c := range []net.Conn{in, dialed} {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Error("old connection: ", err)
		}
	}
}

// TestShared: connections spread over the processes that share a port.
func TestShared(t *testing.T) {
	linuxOnly(t)
	const processes, conns = 3, 400
	ip, port := ownIP(), ownPort()
	var children []*child
	for range processes {
		c := startChild(t, "listen", "shared")
		if got := c.ask(t, tcpMultiaddr(ip, port).String()); got != "listening" {
			t.Fatal(got)
		}
		children = append(children, c)
	}
	for range conns {
		dialPlain(t, netip.AddrPortFrom(ip, port).String())
	}
	var counts [processes]int
	await(t, "all connections are accepted", func() bool {
		total := 0
		for i, c := range children {
			counts[i] = c.count(t)
			total += counts[i]
		}
		return total == conns
	})
	if slices.Min(counts[:]) < conns/processes/4 {
		t.Errorf("the processes got %v of %d connections", counts, conns)
	}
}

// count asks a childListen how many connections it has accepted.
func (c *child) count(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(c.ask(t, "count"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// childListen listens on each address that it reads, shared if its argument says so, and
// closes the listener before it. To "count" it answers how many connections it has accepted.
func childListen(args []string) error {
	var tr reuseport.Transport
	tr.Shared = len(args) > 0 && args[0] == "shared"
	var last manet.Listener
	var accepted atomic.Int32
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if lines.Text() == "count" {
			fmt.Println(accepted.Load())
			continue
		}
		if last != nil {
			last.Close()
			last = nil
		}
		l, err := tr.Listen(ma.StringCast(lines.Text()))
		switch {
		case err == nil:
			last = l
			go countAccepts(l, &accepted)
			fmt.Println("listening")
		case errors.Is(err, syscall.EADDRINUSE):
			fmt.Println("in use")
		default:
			fmt.Println(err)
		}
	}
	return lines.Err()
}
