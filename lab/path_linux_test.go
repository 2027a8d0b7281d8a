package lab_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	upstream "github.com/libp2p/go-libp2p/p2p/net/reuseport"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/lab"
)

// pathLab returns a host and a world of others, each in a network of its own. The
// networks are in 240.0.0.0/4, which RFC 1112 reserves and which is not routed
// anywhere. The wire drops what a test says.
//
//	a ── wire ── world (240.n.0.1 for n from 1 to 60)
func pathLab(t *testing.T, drop ...lab.Match) *lab.Network {
	t.Helper()
	var networks []string
	for n := range 60 {
		networks = append(networks, far(n+1)+"/32")
	}
	n := lab.Start(t, lab.Topology{
		Wires: lab.Wires{"wire": pathWire(drop...)},
		Hosts: lab.Hosts{
			"a": {
				On:     lab.On{"wire": "192.0.0.65/24"},
				Routes: []lab.Route{{To: "240.0.0.0/4", Via: "192.0.0.80"}},
				Role:   "path",
			},
			"world": {On: lab.On{"wire": "192.0.0.80/24 " + strings.Join(networks, " ")}, Role: "plain"},
		},
	})
	listen(t, n, "world", ":7001")
	return n
}

func pathWire(drop ...lab.Match) lab.Wire {
	return lab.Wire{Delay: 10 * time.Millisecond, Drop: drop}
}

// far returns the host of network n.
func far(n int) string { return fmt.Sprintf("240.%d.0.1", n) }

// fromListenPort matches what is dropped by a path that blocks the listening port.
var fromListenPort = lab.Match{SrcPort: listenPort}

const listenPort = 4001

// pathDials asks for dials to addresses, one after the other or all at once.
type pathDials struct {
	To      []string
	Timeout time.Duration
	Use     reuseport.PortUse
	AtOnce  bool
	By      string // who dials, see dialerOf; empty is the transport that open made
}

type pathDial struct {
	Reused bool
	Cause  string
	Took   time.Duration

	Err              string // empty = connected
	Refused, Timeout bool   // what Err is
}

func (d *pathDial) failed(err error) {
	d.Err = err.Error()
	d.Refused = errors.Is(err, syscall.ECONNREFUSED)
	d.Timeout = errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}

// pathState is what a transport reports about itself.
type pathState struct {
	Stats      reuseport.Stats
	Log        string
	Goroutines int
}

// pathPeer is a host whose transport can be replaced.
type pathPeer struct {
	transport *reuseport.Transport
	log       lockedBuffer
}

func pathRole(p *lab.Process) error {
	h := pathPeer{transport: &reuseport.Transport{}}
	lab.Handle(p, "open", h.open)
	lab.Handle(p, "close", h.close)
	lab.Handle(p, "dial", h.dial)
	lab.Handle(p, "dialName", h.dialName)
	lab.Handle(p, "dialStopped", h.dialStopped)
	lab.Handle(p, "reject", h.reject)
	lab.Handle(p, "swarm", h.swarm)
	lab.Handle(p, "state", h.state)
	return errors.Join(p.Serve(), h.transport.Shutdown(context.Background()))
}

// open makes a transport that listens on the given port, and on those after it.
func (h *pathPeer) open(_ context.Context, o pathOpen) (string, error) {
	h.transport = &reuseport.Transport{
		HedgeDelay: o.HedgeDelay,
		Logger:     slog.New(slog.NewTextHandler(&h.log, nil)),
	}
	for i := range max(o.Ports, 1) {
		if _, err := h.transport.ListenPort(o.Port + i); err != nil {
			return "", err
		}
	}
	return "", nil
}

// close shuts the transport down, so that the next one can listen on its port.
func (h *pathPeer) close(ctx context.Context, _ struct{}) (struct{}, error) {
	return struct{}{}, h.transport.Shutdown(ctx)
}

type pathOpen struct {
	Port       uint16
	Ports      uint16 // zero is one
	HedgeDelay time.Duration
}

func (h *pathPeer) state(context.Context, struct{}) (pathState, error) {
	return pathState{h.transport.Stats(), h.log.String(), runtime.NumGoroutine()}, nil
}

func (h *pathPeer) dial(ctx context.Context, d pathDials) ([]pathDial, error) {
	ctx = reuseport.WithPortUse(ctx, d.Use)
	by, end, err := h.dialerOf(d.By)
	if err != nil {
		return nil, err
	}
	defer end()
	dials := make([]pathDial, len(d.To))
	var wg sync.WaitGroup
	for i, to := range d.To {
		one := func() { dials[i] = dialOne(ctx, by, to, d.Timeout) }
		if d.AtOnce {
			wg.Go(one)
			time.Sleep(time.Millisecond) // so that the deadlines do not all end at once
		} else {
			one()
		}
	}
	wg.Wait()
	return dials, nil
}

// A dialFunc dials an IPv4 address with its port.
type dialFunc func(ctx context.Context, to string) (net.Conn, error)

// dialerOf returns a dialer: "net" is net.Dialer, "go-libp2p" its transport for reuse, listening on
// listenPort until end is called, and "" the transport that open made.
func (h *pathPeer) dialerOf(by string) (dial dialFunc, end func(), err error) {
	switch by {
	case "net":
		return func(ctx context.Context, to string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", to)
		}, func() {}, nil
	case "go-libp2p":
		return upstreamDialer(listenPort)
	}
	return func(ctx context.Context, to string) (net.Conn, error) {
		return h.transport.DialNetContext(ctx, "tcp", to)
	}, func() {}, nil
}

func upstreamDialer(port uint16) (dial dialFunc, end func(), err error) {
	tr := &upstream.Transport{}
	l, err := tr.Listen(ma.StringCast(fmt.Sprintf("/ip4/0.0.0.0/tcp/%d", port)))
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context, to string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(to)
		if err != nil {
			return nil, err
		}
		return tr.DialContext(ctx, ma.StringCast("/ip4/"+host+"/tcp/"+port))
	}, func() { _ = l.Close() }, nil // the connections are closed
}

// dialOne dials, reads what the other side sends, and closes.
func dialOne(ctx context.Context, by dialFunc, to string, timeout time.Duration) pathDial {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	began := time.Now()
	c, err := by(ctx, withPort(to))
	d := pathDial{Took: time.Since(began)}
	if err != nil {
		d.failed(err)
		return d
	}
	defer c.Close()
	if conn, ours := c.(*reuseport.Conn); ours {
		d.Reused, d.Cause = conn.Reused(), conn.Cause().String()
	}
	if _, err := io.ReadAll(c); err != nil {
		d.failed(err)
	}
	return d
}

// withPort adds the port of the world's listener to an address without one.
func withPort(addr string) string {
	if strings.Contains(addr, ":") {
		return addr
	}
	return addr + ":7001"
}

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func openPath(t *testing.T, n *lab.Network, o pathOpen) {
	t.Helper()
	if err := n.Call(t.Context(), "a", "open", o, nil); err != nil {
		t.Fatal(err)
	}
}

// beside makes the same dials with net.Dialer and with go-libp2p, before the transport listens on
// its port. It demands that net.Dialer reaches so many, or else the scene would show nothing.
func beside(t *testing.T, n *lab.Network, d pathDials, reachable int) {
	t.Helper()
	d.AtOnce = true
	for _, by := range []string{"net", "go-libp2p"} {
		d.By = by
		if got := logDials(t, by, dialPath(t, n, d)); by == "net" && got != reachable {
			t.Errorf("net.Dialer reached %d of %d", got, reachable)
		}
	}
}

// logDials logs how dials went, and returns how many connected.
func logDials(t *testing.T, by string, dials []pathDial) (connected int) {
	t.Helper()
	by = cmp.Or(by, "reuseport")
	reused := 0
	var took []time.Duration
	for _, d := range dials {
		if d.Err == "" {
			connected++
			took = append(took, d.Took)
		}
		if d.Reused {
			reused++
		}
	}
	slices.Sort(took)
	if connected == 0 {
		t.Logf("%-10s 0 of %d", by, len(dials))
		return 0
	}
	t.Logf("%-10s %d of %d, %d reused, in %v to %v", by, connected, len(dials), reused, took[0].Round(time.Millisecond), took[connected-1].Round(time.Millisecond))
	return connected
}

func closePath(t *testing.T, n *lab.Network) {
	t.Helper()
	if err := n.Call(t.Context(), "a", "close", struct{}{}, nil); err != nil {
		t.Fatal(err)
	}
}

func dialPath(t *testing.T, n *lab.Network, d pathDials) []pathDial {
	t.Helper()
	if d.Timeout == 0 {
		d.Timeout = 5 * time.Second
	}
	dials, err := lab.Call[[]pathDial](t.Context(), n, "a", "dial", d)
	if err != nil {
		t.Fatal(err)
	}
	return dials
}

// mustDial dials one host and demands a connection.
func mustDial(t *testing.T, n *lab.Network, host string) pathDial {
	t.Helper()
	d := dialPath(t, n, pathDials{To: []string{host}})[0]
	if d.Err != "" {
		t.Fatalf("%s: %s", host, d.Err)
	}
	return d
}

func statePath(t *testing.T, n *lab.Network) pathState {
	t.Helper()
	s, err := lab.Call[pathState](t.Context(), n, "a", "state", struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// pathIs demands exactly one path, in the given state.
func pathIs(t *testing.T, n *lab.Network, want reuseport.PathState) {
	t.Helper()
	paths := statePath(t, n).Stats.Paths
	if len(paths) != 1 || paths[0].State != want || paths[0].Source != netip.AddrPortFrom(netip.MustParseAddr("192.0.0.65"), listenPort) {
		t.Errorf("paths %+v, want one, %v", paths, want)
	}
}

// TestPathDropsListenPort follows a path that drops the listening port. The first
// dial costs little more than HedgeDelay, a second one to the same host nothing, and
// those to other hosts ever less. After 24 networks the path is blocked and all dials
// are plain. When the path is healed, reuse is back within 30 s of the last probe.
func TestPathDropsListenPort(t *testing.T) {
	t.Parallel()
	n := pathLab(t, fromListenPort)
	openPath(t, n, pathOpen{Port: listenPort})
	first := mustDial(t, n, far(1))
	if first.Reused || first.Cause != reuseport.HedgeWon.String() || first.Took < 900*time.Millisecond || first.Took > 3*time.Second {
		t.Errorf("first dial %+v, want a hedge that won after 1 s", first)
	}
	again := mustDial(t, n, far(1))
	if again.Cause != reuseport.PathSilent.String() || again.Took > 500*time.Millisecond {
		t.Errorf("second dial to the same host %+v, want a plain one", again)
	}
	blockPath(t, n)
	blocked := mustDial(t, n, far(30))
	if blocked.Cause != reuseport.PathSilent.String() || blocked.Took > 500*time.Millisecond {
		t.Errorf("dial on a blocked path %+v, want a plain one", blocked)
	}
	t.Logf("first dial %v, again %v, once blocked %v", first.Took, again.Took, blocked.Took)
	healPath(t, n)
}

// blockPath dials networks 2 to 24.
func blockPath(t *testing.T, n *lab.Network) {
	t.Helper()
	pathIs(t, n, reuseport.PathUnproven)
	var all time.Duration
	for i := 2; i <= 24; i++ {
		all += mustDial(t, n, far(i)).Took
	}
	t.Logf("23 more networks took %v", all)
	if all > 12*time.Second {
		t.Errorf("23 more networks took %v, want about 3.5 s", all)
	}
	pathIs(t, n, reuseport.PathBlocked)
	s := statePath(t, n)
	if s.Stats.Hedges != 24 || s.Stats.HedgeWins != 24 || strings.Count(s.Log, "path blocked") != 1 {
		t.Errorf("%d hedges, %d won, log %q", s.Stats.Hedges, s.Stats.HedgeWins, s.Log)
	}
}

// healPath lets the port through and dials until reuse is back.
func healPath(t *testing.T, n *lab.Network) {
	t.Helper()
	if err := n.SetWire("wire", pathWire()); err != nil {
		t.Fatal(err)
	}
	healed := time.Now()
	for !mustDial(t, n, far(31)).Reused {
		if time.Since(healed) > 40*time.Second {
			t.Fatal("no reuse 40 s after the path was healed")
		}
		time.Sleep(500 * time.Millisecond)
	}
	t.Logf("reused again %v after the path was healed", time.Since(healed))
	pathIs(t, n, reuseport.PathProven)
	if log := statePath(t, n).Log; strings.Count(log, "path recovered") != 1 {
		t.Errorf("log %q, want one recovery", log)
	}
	if d := mustDial(t, n, far(40)); !d.Reused {
		t.Errorf("after the recovery %+v", d)
	}
}

// dead returns hosts that answer nothing.
func dead(count int) (hosts []string, drop lab.Match) {
	for i := range count {
		hosts = append(hosts, fmt.Sprintf("240.200.%d.%d", i/250, i%250+1))
	}
	return hosts, lab.Match{Dst: "240.200.0.0/16"}
}

// synsTo counts the SYNs on the wire, by source port and in all.
func synsTo(t *testing.T, n *lab.Network) (byPort map[uint16]int, all int) {
	t.Helper()
	l, err := n.Log("wire")
	if err != nil {
		t.Fatal(err)
	}
	if l.Missed > 0 {
		t.Fatalf("the log missed %d packets", l.Missed)
	}
	byPort = make(map[uint16]int)
	for _, p := range l.SYNs() {
		byPort[p.Src.Port()]++
		all++
	}
	return byPort, all
}

// deadDials dials a thousand dead hosts at once and returns the SYNs. In 2.6 s each
// dial sends three: the kernel repeats a SYN after 1.03 and 2.06 s.
func deadDials(t *testing.T, n *lab.Network, hosts []string, by string) (byPort map[uint16]int, all int) {
	t.Helper()
	if err := n.ClearLog("wire"); err != nil {
		t.Fatal(err)
	}
	for _, d := range dialPath(t, n, pathDials{To: hosts, Timeout: 2600 * time.Millisecond, By: by, AtOnce: true}) {
		if !d.Timeout {
			t.Fatalf("dial to a dead host: %+v", d)
		}
	}
	return synsTo(t, n)
}

// TestHedgeBudget dials dead hosts. A proven path must send exactly the SYNs of
// net.Dialer. An unproven one may add those of 32 hedges, and of one more per 5 s.
func TestHedgeBudget(t *testing.T) {
	hosts, drop := dead(1000)
	n := pathLab(t, drop)
	openPath(t, n, pathOpen{Port: listenPort + 1})
	idle := statePath(t, n).Goroutines
	byPort, unproven := deadDials(t, n, hosts, "")
	fromListening := byPort[listenPort+1]
	if hedges := len(byPort) - 1; hedges > 33 || unproven-fromListening > 33*3 {
		t.Errorf("%d hedges sent %d SYNs, want at most 33 and those of 33 dials", hedges, unproven-fromListening)
	}
	time.Sleep(200 * time.Millisecond) // for the last connect
	if after := statePath(t, n).Goroutines; after > idle+5 {
		t.Errorf("%d goroutines after the dials, %d before", after, idle)
	}
	openPath(t, n, pathOpen{Port: listenPort})
	if d := mustDial(t, n, far(1)); !d.Reused {
		t.Fatalf("%+v", d)
	}
	byPort, proven := deadDials(t, n, hosts, "")
	if len(byPort) != 1 || byPort[listenPort] != proven {
		t.Errorf("SYNs of a proven path left from %d ports", len(byPort))
	}
	_, plain := deadDials(t, n, hosts, "net")
	if proven != plain {
		t.Errorf("%d SYNs from a proven path, %d of net.Dialer", proven, plain)
	}
	t.Logf("1000 dials to dead hosts: net.Dialer %d SYNs, proven path %d, unproven path %d", plain, proven, unproven)
}

// TestHostilePeers lets twenty hosts, each in a network of its own, swallow what
// comes from our listening port before any other host has answered it. The others
// must still be dialed from it.
func TestHostilePeers(t *testing.T) {
	t.Parallel()
	var hostile, honest []string
	var drop []lab.Match
	for i := range 20 {
		hostile = append(hostile, far(i+1))
		honest = append(honest, far(i+31))
		drop = append(drop, lab.Match{Dst: far(i + 1), SrcPort: listenPort})
	}
	for name, atOnce := range map[string]bool{"one by one": false, "at once": true} {
		t.Run(name, func(t *testing.T) {
			n := pathLab(t, drop...)
			openPath(t, n, pathOpen{Port: listenPort})
			for i, d := range dialPath(t, n, pathDials{To: hostile, AtOnce: atOnce}) {
				if d.Err != "" || d.Cause != reuseport.HedgeWon.String() {
					t.Errorf("hostile host %d: %+v", i, d)
				}
			}
			pathIs(t, n, reuseport.PathUnproven)
			for i, d := range dialPath(t, n, pathDials{To: honest, AtOnce: atOnce}) {
				if d.Err != "" || !d.Reused {
					t.Errorf("honest host %d: %+v, want reuse", i, d)
				}
			}
			pathIs(t, n, reuseport.PathProven)
			for _, d := range dialPath(t, n, pathDials{To: hostile, AtOnce: atOnce}) {
				if d.Err != "" || d.Took > 500*time.Millisecond {
					t.Errorf("hostile host again: %+v, want a plain dial", d)
				}
			}
		})
	}
}

// TestHedgeOutcomes shows when a dial is not hedged, and how a hedge can end.
func TestHedgeOutcomes(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		drop  lab.Match
		hedge time.Duration
		dials pathDials
		check func(t *testing.T, d pathDial, ports map[uint16]int)
	}{
		"RequireReuse is not hedged": {
			fromListenPort, 100 * time.Millisecond,
			pathDials{To: []string{far(1)}, Use: reuseport.RequireReuse, Timeout: time.Second}, onlyListeningPort,
		},
		"a negative HedgeDelay means none": {
			fromListenPort, -1, pathDials{To: []string{far(1)}, Timeout: 1500 * time.Millisecond}, onlyListeningPort,
		},
		"a refusal of the hedge is the answer": {
			lab.Match{SrcPort: listenPort}, 200 * time.Millisecond,
			pathDials{To: []string{"192.0.0.80:7999"}, Timeout: 5 * time.Second}, refusedSoon,
		},
		"the listening port is preferred": {
			lab.Match{SrcPort: 1}, 10 * time.Millisecond, pathDials{To: []string{far(1)}}, bothConnected,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := pathLab(t, tt.drop)
			openPath(t, n, pathOpen{Port: listenPort, HedgeDelay: tt.hedge})
			d := dialPath(t, n, tt.dials)[0]
			time.Sleep(100 * time.Millisecond) // for what is still under way
			ports, _ := synsTo(t, n)
			tt.check(t, d, ports)
		})
	}
}

func onlyListeningPort(t *testing.T, d pathDial, ports map[uint16]int) {
	t.Helper()
	if d.Err == "" || len(ports) != 1 || ports[listenPort] == 0 {
		t.Errorf("%+v, SYNs by port %v, want none but from the listening port", d, ports)
	}
}

func refusedSoon(t *testing.T, d pathDial, ports map[uint16]int) {
	t.Helper()
	if !d.Refused || d.Took > 2*time.Second || len(ports) != 2 {
		t.Errorf("%+v, SYNs by port %v, want a refusal of the hedge", d, ports)
	}
}

// bothConnected expects both dials to send, since the head start is shorter than the
// round trip, and the one from the listening port to be the result.
func bothConnected(t *testing.T, d pathDial, ports map[uint16]int) {
	t.Helper()
	if d.Err != "" || !d.Reused || len(ports) != 2 {
		t.Errorf("%+v, SYNs by port %v, want reuse, and a hedge that lost", d, ports)
	}
}
