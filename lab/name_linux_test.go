package lab_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/reusetransport/reuseport/lab"
)

// TestNameFarAway: twenty addresses, all live, at a round trip of 250 ms are dialed within 4 s, which
// is less than a share for each. net.Dialer dials the same name first. None sends more SYNs
// than RFC 8305 asks for: the second address is due when the first answers.
func TestNameFarAway(t *testing.T) {
	t.Parallel()
	n := pathLab(t)
	if err := n.SetWire("wire", lab.Wire{Delay: 125 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	name := pathName{Addrs: farHosts(1, 20), Timeout: 4 * time.Second}
	for _, by := range []string{"net", ""} {
		name.By = by
		if by == "" {
			openPath(t, n, pathOpen{Port: listenPort})
		}
		if err := n.ClearLog("wire"); err != nil {
			t.Fatal(err)
		}
		d := call[pathDial](t, n, "a", "dialName", name)
		time.Sleep(300 * time.Millisecond) // for what is still under way
		_, syns := synsTo(t, n)
		t.Logf("%q: %v, %d SYNs, reused %v", by, d.Took.Round(time.Millisecond), syns, d.Reused)
		if d.Err != "" || syns > 2 || by == "" && !d.Reused {
			t.Errorf("%q: %+v, %d SYNs", by, d, syns)
		}
	}
}

// pathName asks for a dial of a name that has these addresses.
type pathName struct {
	Addrs   []string
	Timeout time.Duration
	By      string // see pathPeer.dialerOf
}

// dialName starts a DNS server on loopback and dials.
func (h *pathPeer) dialName(ctx context.Context, name pathName) (pathDial, error) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return pathDial{}, err
	}
	defer pc.Close()
	go serveName(pc, name.Addrs)
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
	by := func(ctx context.Context, to string) (net.Conn, error) {
		return (&net.Dialer{Resolver: resolver}).DialContext(ctx, "tcp4", to)
	}
	if name.By == "" {
		h.transport.Resolver = resolver
		by = func(ctx context.Context, to string) (net.Conn, error) {
			return h.transport.DialNetContext(ctx, "tcp4", to)
		}
	}
	return dialOne(ctx, by, "peer.test:7001", name.Timeout), nil
}

// serveName answers each question with all addresses, until pc is closed.
func serveName(pc net.PacketConn, addrs []string) {
	buf := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		var m dnsmessage.Message
		if err != nil || m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		m.Header.Response, m.Additionals = true, nil
		q := m.Questions[0]
		for _, a := range slices.Sorted(slices.Values(addrs)) {
			h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type}
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: netip.MustParseAddr(a).As4()}})
		}
		if b, err := m.Pack(); err == nil {
			_, _ = pc.WriteTo(b, from) // the client asks again
		}
	}
}
