//go:build !plan9

package reuseport_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptrace"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/reusetransport/reuseport"
)

// nameServer is where package net asks for names in these tests; see TestMain.
var nameServer atomic.Pointer[net.UDPAddr]

// testResolver asks nameServer. It is set once for the whole run, since look-ups
// that were given up go on in the background.
func testResolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		addr := nameServer.Load()
		if addr == nil {
			return nil, errors.New("this test has no name server")
		}
		return new(net.Dialer).DialContext(ctx, "udp", addr.String())
	}}
}

// resolveBy starts a DNS server on loopback that knows peer.test by the given
// addresses; it answers other names with NXDOMAIN, and silent.test not at all. It
// returns the number of questions per type.
func resolveBy(t *testing.T, addrs ...string) (v4, v6 *atomic.Int32) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nameServer.Store(pc.LocalAddr().(*net.UDPAddr))
	t.Cleanup(func() { nameServer.Store(nil); pc.Close() })
	v4, v6 = new(atomic.Int32), new(atomic.Int32)
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if b := answerDNS(buf[:n], addrs, v4, v6); b != nil {
				pc.WriteTo(b, from)
			}
		}
	}()
	return v4, v6
}

func answerDNS(question []byte, addrs []string, v4, v6 *atomic.Int32) []byte {
	var m dnsmessage.Message
	if m.Unpack(question) != nil || len(m.Questions) != 1 || m.Questions[0].Name.String() == "silent.test." {
		return nil
	}
	q := m.Questions[0]
	m.Header.Response, m.Additionals = true, nil
	if q.Name.String() != "peer.test." {
		m.Header.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range addrs {
		ip := netip.MustParseAddr(a)
		h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type}
		switch {
		case m.Header.RCode != dnsmessage.RCodeSuccess:
		case ip.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: ip.As4()}})
		case !ip.Is4() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: ip.As16()}})
		}
	}
	map[dnsmessage.Type]*atomic.Int32{dnsmessage.TypeA: v4, dnsmessage.TypeAAAA: v6}[q.Type].Add(1)
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

// TestNames dials names of each kind and sees which family was asked for, once.
func TestNames(t *testing.T) {
	for _, row := range []struct {
		format string
		v4, v6 int32
	}{{"/dns4/peer.test/tcp/%d", 1, 0}, {"/dns6/peer.test/tcp/%d", 0, 1}, {"/dns/peer.test/tcp/%d", 1, 1}} {
		t.Run(row.format, func(t *testing.T) {
			var us, them reuseport.Transport
			l, err := us.ListenPort(0)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			remote, err := them.ListenPort(0)
			if err != nil {
				t.Fatal(err)
			}
			defer remote.Close()
			v4, v6 := resolveBy(t, "127.0.0.1", "::1")
			c := dial(t, &us, parse(t, fmt.Sprintf(row.format, portOf(remote.Addr()))))
			if !c.Reused() {
				t.Error("not reused: ", c.Cause())
			}
			if v4.Load() != row.v4 || v6.Load() != row.v6 {
				t.Errorf("asked %d times for A and %d for AAAA", v4.Load(), v6.Load())
			}
		})
	}
}

// TestNameTriesEveryAddress: where the first addresses refuse, the next one is
// dialed; where all do, the error has all of them, the first one first.
func TestNameTriesEveryAddress(t *testing.T) {
	linuxOnly(t)
	var n atomic.Int32
	tr := reuseport.Transport{Control: attempts(&n)}
	good := peer(t, "127.0.0.5:0")
	port, err := good.ValueForProtocol(6) // /tcp
	if err != nil {
		t.Fatal(err)
	}
	resolveBy(t, "127.0.0.3", "127.0.0.4", "127.0.0.5")
	c := dial(t, &tr, parse(t, "/dns4/peer.test/tcp/"+port))
	if !c.RemoteMultiaddr().Equal(good) || n.Load() > 3 {
		t.Errorf("connected to %v after %d attempts", c.RemoteMultiaddr(), n.Load())
	}
	resolveBy(t, "127.0.0.3", "127.0.0.4")
	n.Store(0)
	_, err = tr.Dial(parse(t, "/dns4/peer.test/tcp/"+port))
	wantErr(t, err, syscall.ECONNREFUSED)
	var op *net.OpError
	if n.Load() != 2 || !errors.As(err, &op) {
		t.Errorf("%d attempts, error %v", n.Load(), err)
	}
}

// TestSilentAddressLeavesTime: an address that swallows SYNs gets its share of the
// deadline, and the next one still connects.
func TestSilentAddressLeavesTime(t *testing.T) {
	silent := fullListener(t)
	host, err := silent.ValueForProtocol(4) // /ip4
	if err != nil {
		t.Fatal(err)
	}
	port, err := silent.ValueForProtocol(6)
	if err != nil {
		t.Fatal(err)
	}
	peer(t, "127.0.0.6:"+port)
	resolveBy(t, host, "127.0.0.6")
	var tr reuseport.Transport
	c, err := tr.DialContext(shortly(t, 2*time.Second), parse(t, "/dns4/peer.test/tcp/"+port))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// TestNameErrors: unknown names and a context that ends are told by type.
func TestNameErrors(t *testing.T) {
	resolveBy(t, "127.0.0.1")
	var tr reuseport.Transport
	_, err := tr.Dial(parse(t, "/dns4/unknown.test/tcp/1"))
	var dns *net.DNSError
	if !errors.As(err, &dns) || !dns.IsNotFound {
		t.Errorf("unknown name: %v", err)
	}
	start := time.Now()
	_, err = tr.DialContext(shortly(t, 200*time.Millisecond), parse(t, "/dns/silent.test/tcp/1"))
	wantErr(t, err, context.DeadlineExceeded)
	if time.Since(start) > 4*time.Second {
		t.Errorf("gave up after %v", time.Since(start))
	}
	_, err = tr.Listen(parse(t, "/dns4/unknown.test/tcp/0"))
	if !errors.As(err, &dns) {
		t.Errorf("listen on an unknown name: %v", err)
	}
}

// TestEndedContextAsksNothing: a context that has ended is the answer, whatever
// the name, and nothing is looked up.
func TestEndedContextAsksNothing(t *testing.T) {
	var asked []string
	trace := &httptrace.ClientTrace{DNSStart: func(i httptrace.DNSStartInfo) { asked = append(asked, i.Host) }}
	ctx, cancel := context.WithCancel(httptrace.WithClientTrace(t.Context(), trace))
	cancel()
	var tr reuseport.Transport
	for _, name := range []string{"peer.test", "not!a!name"} {
		_, err := tr.DialContext(ctx, parse(t, "/dns/"+name+"/tcp/1"))
		wantErr(t, err, context.Canceled)
	}
	if len(asked) != 0 {
		t.Errorf("looked up %q", asked)
	}
}

// TestDialNetContext takes what net.Dial takes, and names what it does not.
func TestDialNetContext(t *testing.T) {
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	raddr := peer(t, "127.0.0.1:0")
	port, err := raddr.ValueForProtocol(6)
	if err != nil {
		t.Fatal(err)
	}
	resolveBy(t, "127.0.0.1")
	for _, address := range []string{"127.0.0.1:" + port, "peer.test:" + port, "[::ffff:127.0.0.1]:" + port, "[::]:" + port, "localhost:" + port} {
		c, err := tr.DialNetContext(context.Background(), "tcp4", address)
		if err != nil {
			t.Error(address, err)
			continue
		}
		if !c.(*reuseport.Conn).Reused() {
			t.Error(address, "not reused: ", c.(*reuseport.Conn).Cause())
		}
		c.(*reuseport.Conn).Abort()
	}
	var wrong *net.AddrError
	for _, address := range []string{"127.0.0.1", "[::1]:1", "a:b:c"} {
		if _, err := tr.DialNetContext(context.Background(), "tcp4", address); !errors.As(err, &wrong) {
			t.Errorf("%s: %v, want *net.AddrError", address, err)
		}
	}
	if _, err := tr.DialNetContext(context.Background(), "tcp", "127.0.0.1:99999"); err == nil {
		t.Error("port 99999 was accepted")
	}
}
