//go:build !plan9

package reuseport_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptrace"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/reusetransport/reuseport"
)

// wrongAddresses are multiaddrs that are not TCP addresses.
var wrongAddresses = []string{
	"/ip4/127.0.0.1/udp/1", "/ip4/127.0.0.1", "/ip4/127.0.0.1/tcp/1/ws", "/tcp/1",
	"/ip6zone/lo/ip4/127.0.0.1/tcp/1", "/dnsaddr/localhost/tcp/1", "/unix/x", "/dns4/localhost",
	"/ip6/::1/udp/1/quic-v1", "/ip6zone/lo/ip6/::1",
}

// TestDialWrongAddress: the error of a dial that has no TCP address names it, and is counted.
func TestDialWrongAddress(t *testing.T) {
	var tr reuseport.Transport
	_, err := tr.Dial(nil)
	wantErr(t, err, reuseport.ErrWrongProto)
	_, err = tr.Dial(ma.Multiaddr{})
	wantErr(t, err, reuseport.ErrWrongProto)
	for _, s := range wrongAddresses {
		_, err := tr.Dial(parse(t, s))
		wantErr(t, err, reuseport.ErrWrongProto)
		if err != nil && !strings.Contains(err.Error(), s) {
			t.Errorf("%v does not name %s", err, s)
		}
	}
	for _, network := range []string{"udp", "", "unix", "tcp5"} {
		_, err := tr.DialNetContext(context.Background(), network, "127.0.0.1:1")
		wantErr(t, err, reuseport.ErrWrongProto)
	}
	if n := tr.Stats().DialsFailed; n != uint64(len(wrongAddresses)+6) {
		t.Errorf("Stats().DialsFailed = %d", n)
	}
}

// TestListenWrongAddress: Listen refuses what is no TCP address, and names an address that the
// host does not have.
func TestListenWrongAddress(t *testing.T) {
	var tr reuseport.Transport
	_, err := tr.Listen(nil)
	wantErr(t, err, reuseport.ErrWrongProto)
	for _, s := range wrongAddresses {
		_, err := tr.Listen(parse(t, s))
		wantErr(t, err, reuseport.ErrWrongProto)
	}
	_, err = tr.Listen(parse(t, "/ip4/198.51.100.1/tcp/1"))
	wantErr(t, err, syscall.EADDRNOTAVAIL)
	var op *net.OpError
	if !errors.As(err, &op) || op.Addr.String() != "198.51.100.1:1" {
		t.Errorf("%v does not name the address", err)
	}
}

// FuzzDialMultiaddr: a dial of any multiaddr ends with an error and does not panic. Nothing is
// sent, since the context has ended.
func FuzzDialMultiaddr(f *testing.F) {
	for _, s := range append(wrongAddresses, "/ip4/127.0.0.1/tcp/1", "/ip6zone/lo/ip6/fe80::1/tcp/1", "/dns/localhost/tcp/1", "/dns/not!a!name/tcp/1") {
		f.Add(ma.StringCast(s).Bytes())
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ma.NewMultiaddrBytes(b)
		if err != nil {
			return
		}
		var tr reuseport.Transport
		_, err = tr.DialContext(ctx, m)
		if err == nil {
			t.Fatalf("%v: no error", m)
		}
		if !errors.Is(err, reuseport.ErrWrongProto) && !errors.Is(err, context.Canceled) {
			t.Fatalf("%v: %v", m, err)
		}
	})
}

// TestDialNetContext: DialNetContext takes the addresses that net.Dial takes, and no others.
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

// TestNames: a name of each kind is looked up once, in the families that it stands for.
func TestNames(t *testing.T) {
	for _, row := range []struct {
		format string
		v4, v6 int32
	}{{"/dns4/peer.test/tcp/%d", 1, 0}, {"/dns6/peer.test/tcp/%d", 0, 1}, {"/dns/peer.test/tcp/%d", 1, 1}} {
		t.Run(row.format, func(t *testing.T) {
			var us, them reuseport.Transport
			listenPort(t, &us)
			remote := listenPort(t, &them)
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

// TestNameTriesEveryAddress: where an address of a name refuses, the next one is dialed, and the
// error has the refusals of all.
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

// TestSilentAddressLeavesTime: an address that does not answer gets its share of the deadline, and
// the next one is still connected to.
func TestSilentAddressLeavesTime(t *testing.T) {
	linuxOnly(t) // elsewhere there is no 127.0.0.6
	silent := silentListener(t)
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
	c, err := tr.DialContext(shortly(t, time.Second), parse(t, "/dns4/peer.test/tcp/"+port))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// TestSilentAddressesUseTime: the last of several addresses gets all the time that is left.
func TestSilentAddressesUseTime(t *testing.T) {
	linuxOnly(t) // elsewhere a silent address takes a filter
	silent := silentListener(t)
	port, err := silent.ValueForProtocol(6)
	if err != nil {
		t.Fatal(err)
	}
	resolveBy(t, ownIP().String(), ownIP().String())
	var tr reuseport.Transport
	const within = 240 * time.Millisecond
	start := time.Now()
	_, err = tr.DialContext(shortly(t, within), parse(t, "/dns4/peer.test/tcp/"+port))
	wantErr(t, err, context.DeadlineExceeded)
	if took := time.Since(start); took < within-10*time.Millisecond {
		t.Errorf("given up after %v of %v", took, within)
	}
}

// TestCancelledNameStops: after the context has ended no further address is tried.
func TestCancelledNameStops(t *testing.T) {
	linuxOnly(t) // elsewhere there is no 127.0.0.6
	silent := silentListener(t)
	port, err := silent.ValueForProtocol(6)
	if err != nil {
		t.Fatal(err)
	}
	resolveBy(t, ownIP().String(), "127.0.0.6")
	var tr reuseport.Transport
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err = tr.DialContext(ctx, parse(t, "/dns4/peer.test/tcp/"+port))
	wantErr(t, err, context.Canceled)
	if err != nil && strings.Contains(err.Error(), "127.0.0.6") {
		t.Errorf("the next address was tried: %v", err)
	}
}

// TestListenName: Listen takes the first IPv4 address of a name, or else its first.
func TestListenName(t *testing.T) {
	for _, row := range []struct {
		addrs []string
		want  string
	}{{[]string{"::1", "127.0.0.1"}, "127.0.0.1"}, {[]string{"127.0.0.1"}, "127.0.0.1"}, {[]string{"::1"}, "::1"}} {
		resolveBy(t, row.addrs...)
		var tr reuseport.Transport
		l := listen(t, &tr, "/dns/peer.test/tcp/0")
		if ip := l.Addr().(*net.TCPAddr).IP.String(); ip != row.want {
			t.Errorf("of %v it listens on %s, want %s", row.addrs, ip, row.want)
		}
	}
}

// TestNameErrors: the error of an unknown name is a *net.DNSError, and that of a look-up whose
// context ends is the context's.
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

// TestEndedContextAsksNothing: with a context that has ended nothing is looked up, whatever the
// name.
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

// nameServer is where package net asks for names in these tests, see TestMain.
var nameServer atomic.Pointer[net.UDPAddr]

// testResolver returns a resolver that asks nameServer. It is set once for the whole run, since
// look-ups that were given up go on in the background.
func testResolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		addr := nameServer.Load()
		if addr == nil {
			return nil, errors.New("this test has no name server")
		}
		return new(net.Dialer).DialContext(ctx, "udp", addr.String())
	}}
}

// resolveBy starts a DNS server on loopback that knows the addresses of peer.test. It answers
// other names with NXDOMAIN, and silent.test not at all. It returns how often it was asked for
// each type.
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

// answerDNS returns the answer to a question, or nil for none.
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
