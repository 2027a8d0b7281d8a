package reuseport_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
)

// TestHedgeGlobal: a dial of a global address is hedged, but with RequireReuse, and where
// HedgeDelay is negative. Conn and Stats say what came of it.
func TestHedgeGlobal(t *testing.T) {
	t.Parallel()
	if !alone(t) {
		return
	}
	if err := setLoopback([]byte{203, 0, 113, 1}); err != nil { // for documentation (RFC 5737)
		t.Fatal(err)
	}
	answers, err := net.Listen("tcp4", "203.0.113.9:80") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer answers.Close()
	filtered, err := listenFiltered(t.Context(), "0.0.0.0:81", dropListeningPorts)
	if err != nil {
		t.Fatal(err)
	}
	defer filtered.Close()
	global := netip.MustParseAddr("203.0.113.9")

	proven := newHedgeDials(t, 4001)
	proven.want(global, 80, "reused", 0, reuseport.PathProven)
	proven.want(global, 80, "reused", 0, reuseport.PathProven)
	proven.want(global, 82, "refused", 0, reuseport.PathProven)
	fresh := newHedgeDials(t, 4002)
	fresh.want(global, 82, "refused", 0)
	dropped := newHedgeDials(t, 4003)
	dropped.want(global, 81, "hedge won", 1, reuseport.PathUnproven)
	dropped.want(global, 81, "path silent", 1, reuseport.PathUnproven)
	never := newHedgeDials(t, 4004)
	never.tr.HedgeDelay = -1
	never.want(global, 81, "deadline exceeded", 0)
	required := newHedgeDials(t, 4005)
	required.tr.PortUse = reuseport.RequireReuse
	required.want(global, 81, "deadline exceeded", 0)
}

// hedgeDials is a Transport whose dials are hedged after 200 ms, which is longer than a dial on a
// busy machine takes.
type hedgeDials struct {
	*testing.T
	tr reuseport.Transport
}

// newHedgeDials listens on port, which is below 5000.
func newHedgeDials(t *testing.T, port uint16) *hedgeDials {
	t.Helper()
	h := &hedgeDials{T: t}
	h.tr.HedgeDelay = 200 * time.Millisecond
	listen(t, &h.tr, tcpMultiaddr(netip.IPv4Unspecified(), port).String())
	return h
}

// want dials and checks what comes of it, how many hedges there were, and the states of paths.
func (h *hedgeDials) want(ip netip.Addr, port uint16, want string, hedges uint64, states ...reuseport.PathState) {
	h.Helper()
	c, err := h.tr.DialContext(shortly(h, 700*time.Millisecond), tcpMultiaddr(ip, port))
	got := resultOf(c, err)
	s := h.tr.Stats()
	if got != want || s.Hedges != hedges || len(s.Paths) != len(states) {
		h.Errorf("%v:%d: %s, %d hedges, paths %v; want %s, %d, %v", ip, port, got, s.Hedges, s.Paths, want, hedges, states)
		return
	}
	for i, p := range s.Paths {
		if p.State != states[i] {
			h.Errorf("%v:%d: path %+v, want %v", ip, port, p, states[i])
		}
	}
}

// resultOf puts what a dial brought into a word or two, and resets it.
func resultOf(c net.Conn, err error) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "deadline exceeded"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case err != nil:
		return err.Error()
	}
	conn := c.(*reuseport.Conn)
	defer conn.Abort()
	if conn.Reused() {
		return "reused"
	}
	return conn.Cause().String()
}

// dropListeningPorts drops each segment from a port below 5000.
var dropListeningPorts = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 0}, // the source port
	{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: 5000, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}
