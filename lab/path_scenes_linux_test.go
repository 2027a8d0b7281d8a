package lab_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/lab"
)

// These tests are the forms in which a path drops the listening port. In each of them net.Dialer,
// which leaves from an ephemeral port, and go-libp2p dial the same hosts in the same network first.

// farHosts returns the hosts of networks first to last.
func farHosts(first, last int) (hosts []string) {
	for i := first; i <= last; i++ {
		hosts = append(hosts, far(i))
	}
	return hosts
}

// mustDialAll dials hosts and demands connections.
func mustDialAll(t *testing.T, n *lab.Network, d pathDials) []pathDial {
	t.Helper()
	dials := dialPath(t, n, d)
	logDials(t, "", dials)
	for i, got := range dials {
		if got.Err != "" {
			t.Errorf("%s: %+v", d.To[i], got)
		}
	}
	return dials
}

// border drops what leaves the listening port for other networks.
var border = lab.Match{SrcPort: listenPort, Dst: "240.0.0.0/4"}

// TestPathNeighbour: a handshake with a neighbour says nothing about the border. It neither
// proves the path of far hosts nor ends its block.
func TestPathNeighbour(t *testing.T) {
	t.Parallel()
	n := pathLab(t, border)
	beside(t, n, pathDials{To: farHosts(1, 24)}, 24)
	openPath(t, n, pathOpen{Port: listenPort})
	if d := mustDial(t, n, "192.0.0.80"); !d.Reused {
		t.Errorf("the neighbour: %+v", d)
	}
	for _, d := range mustDialAll(t, n, pathDials{To: farHosts(1, 24)}) {
		if d.Took > 1900*time.Millisecond {
			t.Errorf("waited for the hand-over: %+v", d)
		}
	}
	if d := mustDial(t, n, far(30)); d.Cause != reuseport.PathSilent.String() {
		t.Errorf("after 24 networks: %+v", d)
	}
	if d := mustDial(t, n, "192.0.0.80"); !d.Reused {
		t.Errorf("the neighbour, on another path: %+v", d)
	}
	mustDialAll(t, n, pathDials{To: farHosts(31, 35)})
	states := make(map[reuseport.Distance]reuseport.PathState)
	for _, p := range statePath(t, n).Stats.Paths {
		states[p.Distance] = p.State
	}
	if states[reuseport.DistanceNear] != reuseport.PathProven || states[reuseport.DistanceGlobal] != reuseport.PathBlocked {
		t.Errorf("paths %v", states)
	}
}

// TestPathOneHost: a host that drops the port is reached on a path that others keep proven, and
// costs the others nothing.
func TestPathOneHost(t *testing.T) {
	t.Parallel()
	n := pathLab(t, lab.Match{SrcPort: listenPort, Dst: far(1)})
	beside(t, n, pathDials{To: []string{far(1)}}, 1)
	openPath(t, n, pathOpen{Port: listenPort})
	for i := range 6 {
		if d := mustDial(t, n, far(2+i)); !d.Reused {
			t.Errorf("another host: %+v", d)
		}
		d := mustDialAll(t, n, pathDials{To: []string{far(1)}})[0]
		if i > 0 && d.Took > 500*time.Millisecond {
			t.Errorf("dial %d of the host: %+v", i, d)
		}
	}
}

// TestPathOneNetwork: the same for a network, whose hosts cost a short head start each.
func TestPathOneNetwork(t *testing.T) {
	t.Parallel()
	n := pathLab(t, lab.Match{SrcPort: listenPort, Dst: "240.1.0.0/24"})
	if err := n.AddAddr("world", "wire", "240.1.0.2/32 240.1.0.3/32 240.1.0.4/32"); err != nil {
		t.Fatal(err)
	}
	beside(t, n, pathDials{To: []string{far(1), "240.1.0.2", "240.1.0.3", "240.1.0.4"}}, 4)
	openPath(t, n, pathOpen{Port: listenPort})
	mustDial(t, n, far(2))
	mustDial(t, n, far(1))
	for _, d := range mustDialAll(t, n, pathDials{To: []string{"240.1.0.2", "240.1.0.3", "240.1.0.4"}}) {
		if d.Took > time.Second {
			t.Errorf("a further host: %+v", d)
		}
	}
	if d := mustDial(t, n, far(3)); !d.Reused {
		t.Errorf("another network: %+v", d)
	}
}

// TestPathShortDeadlines: dials with less time than HedgeDelay connect, one after the other and at
// once.
func TestPathShortDeadlines(t *testing.T) {
	t.Parallel()
	for name, atOnce := range map[string]bool{"one by one": false, "at once": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := pathLab(t, fromListenPort)
			beside(t, n, pathDials{To: farHosts(1, 40), Timeout: time.Second}, 40)
			openPath(t, n, pathOpen{Port: listenPort})
			mustDialAll(t, n, pathDials{To: farHosts(1, 40), Timeout: time.Second, AtOnce: atOnce})
		})
	}
}

// TestPathLostSYN: a SYN that got lost is repeated after a second, and the port is reused. Each
// dialer has hosts of its own, so that none is kept from a 4-tuple by another's connection.
func TestPathLostSYN(t *testing.T) {
	t.Parallel()
	n := pathLab(t)
	for i, by := range []string{"net", "go-libp2p"} {
		loseFirst(t, n, func() {
			logDials(t, by, dialPath(t, n, pathDials{To: farHosts(1+20*i, 20+20*i), AtOnce: true, By: by}))
		})
	}
	openPath(t, n, pathOpen{Port: listenPort})
	loseFirst(t, n, func() {
		for i, d := range mustDialAll(t, n, pathDials{To: farHosts(41, 60), AtOnce: true}) {
			if !d.Reused {
				t.Errorf("%s: %+v", far(41+i), d)
			}
		}
	})
}

// loseFirst calls dial while the wire loses everything, and lets packets through after half a
// second, before TCP repeats a SYN.
func loseFirst(t *testing.T, n *lab.Network, dial func()) {
	t.Helper()
	if err := n.SetWire("wire", pathWire(lab.Match{})); err != nil {
		t.Fatal(err)
	}
	healed := make(chan error)
	go func() {
		time.Sleep(500 * time.Millisecond)
		healed <- n.SetWire("wire", pathWire())
	}()
	dial()
	if err := <-healed; err != nil {
		t.Fatal(err)
	}
}

// TestPathDeadFirst: forty dead hosts do not take the time of twenty live ones, five times.
func TestPathDeadFirst(t *testing.T) {
	t.Parallel()
	dead, drop := dead(40)
	n := pathLab(t, drop, fromListenPort)
	beside(t, n, pathDials{To: append(dead[:40:40], farHosts(1, 20)...)}, 20)
	for round := range 5 {
		openPath(t, n, pathOpen{Port: listenPort})
		live := farHosts(1+round, 20+round)
		dials := dialPath(t, n, pathDials{To: append(dead[:40:40], live...), AtOnce: true})
		logDials(t, "", dials)
		for i, d := range dials[40:] {
			if d.Err != "" {
				t.Errorf("round %d, %s: %+v", round, live[i], d)
			}
		}
		closePath(t, n)
	}
}

// TestHandOver: dials of dead hosts that are handed over send the SYNs of net.Dialer, not one
// more, and live hosts that drop the port are reached.
func TestHandOver(t *testing.T) {
	hosts, drop := dead(200)
	n := pathLab(t, drop, lab.Match{SrcPort: listenPort, Dst: far(1)})
	openPath(t, n, pathOpen{Port: listenPort})
	mustDial(t, n, far(2))
	counts := make(map[string]int)
	for _, by := range []string{"", "net"} {
		if err := n.ClearLog("wire"); err != nil {
			t.Fatal(err)
		}
		for _, d := range dialPath(t, n, pathDials{To: hosts, Timeout: 4600 * time.Millisecond, By: by, AtOnce: true}) {
			if !d.Timeout {
				t.Fatalf("dial to a dead host: %+v", d)
			}
		}
		_, counts[by] = synsTo(t, n)
	}
	if counts[""] != counts["net"] {
		t.Errorf("%d SYNs, net.Dialer %d", counts[""], counts["net"])
	}
	t.Logf("200 dials to dead hosts in 4.6 s: %d SYNs, net.Dialer %d", counts[""], counts["net"])
	if d := mustDial(t, n, far(1)); d.Took > 4*time.Second {
		t.Errorf("a live host: %+v", d)
	}
	if s := statePath(t, n).Stats; s.Hedges != 0 || s.HandOvers != 201 {
		t.Errorf("%d hedges and %d hand-overs", s.Hedges, s.HandOvers)
	}
}

// TestPathManyPorts: a host costs a second once, and not once for each listening port.
func TestPathManyPorts(t *testing.T) {
	t.Parallel()
	n := pathLab(t, fromListenPort, lab.Match{SrcPort: listenPort + 1}, lab.Match{SrcPort: listenPort + 2}, lab.Match{SrcPort: listenPort + 3})
	beside(t, n, pathDials{To: []string{far(1)}}, 1)
	openPath(t, n, pathOpen{Port: listenPort, Ports: 4})
	mustDialAll(t, n, pathDials{To: []string{far(1)}})
	for range 8 {
		if d := mustDial(t, n, far(1)); d.Took > 500*time.Millisecond {
			t.Errorf("%+v", d)
		}
	}
}

// TestPathPrivate: a private host behind a router is hedged, and so is a neighbour.
func TestPathPrivate(t *testing.T) {
	t.Parallel()
	n := pathLab(t, fromListenPort)
	for _, to := range []string{"10.99.0.1/32", "100.64.0.1/32"} {
		if err := n.AddAddr("world", "wire", to); err != nil {
			t.Fatal(err)
		}
		if err := n.AddRoute("a", lab.Route{To: to, Via: "192.0.0.80"}); err != nil {
			t.Fatal(err)
		}
	}
	hosts := []string{"10.99.0.1", "100.64.0.1", "192.0.0.80"}
	beside(t, n, pathDials{To: hosts}, len(hosts))
	openPath(t, n, pathOpen{Port: listenPort})
	mustDialAll(t, n, pathDials{To: hosts})
}

// TestPathStopped: a process that is stopped while the system connects has one connection, from
// the listening port.
func TestPathStopped(t *testing.T) {
	t.Parallel()
	n := pathLab(t)
	if err := n.SetWire("wire", lab.Wire{Delay: 100 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	dialStopped(t, n, "net", 1)
	dialStopped(t, n, "go-libp2p", 11)
	openPath(t, n, pathOpen{Port: listenPort})
	if err := n.ClearLog("wire"); err != nil {
		t.Fatal(err)
	}
	for _, d := range dialStopped(t, n, "", 21) {
		if !d.Reused {
			t.Errorf("%+v", d)
		}
	}
	if ports, _ := synsTo(t, n); len(ports) != 1 {
		t.Errorf("SYNs by port %v", ports)
	}
}

// dialStopped dials eight hosts from the first on, each while the process is stopped.
func dialStopped(t *testing.T, n *lab.Network, by string, first int) (dials []pathDial) {
	t.Helper()
	for _, to := range farHosts(first, first+7) {
		d, err := lab.Call[pathDial](t.Context(), n, "a", "dialStopped", pathDials{To: []string{to}, By: by})
		if err != nil {
			t.Fatal(err)
		}
		dials = append(dials, d)
	}
	logDials(t, by, dials)
	return dials
}

// dialStopped dials while a shell stops this process for two seconds.
func (h *pathPeer) dialStopped(ctx context.Context, d pathDials) (pathDial, error) {
	by, end, err := h.dialerOf(d.By)
	if err != nil {
		return pathDial{}, err
	}
	defer end()
	script := fmt.Sprintf("sleep 0.1; kill -STOP %[1]d; sleep 2; kill -CONT %[1]d", os.Getpid())
	shell := exec.CommandContext(ctx, "sh", "-c", script)
	if err := shell.Start(); err != nil {
		return pathDial{}, err
	}
	dial := dialOne(ctx, by, d.To[0], 10*time.Second)
	return dial, shell.Wait()
}

// TestPathRejects: a firewall that resets what leaves the listening port costs the first dial.
// The second shows it, and all further ones connect.
func TestPathRejects(t *testing.T) {
	t.Parallel()
	n := pathLab(t)
	if err := n.Call(t.Context(), "a", "reject", struct{}{}, nil); err != nil {
		t.Fatal(err)
	}
	beside(t, n, pathDials{To: farHosts(1, 20)}, 20)
	openPath(t, n, pathOpen{Port: listenPort})
	first := dialPath(t, n, pathDials{To: []string{far(1)}})
	logDials(t, "", first)
	if !first[0].Refused {
		t.Errorf("the first dial: %+v", first[0])
	}
	for _, d := range mustDialAll(t, n, pathDials{To: append(farHosts(2, 20), far(1))}) {
		if d.Took > time.Second {
			t.Errorf("%+v", d)
		}
	}
	if p := statePath(t, n).Stats.Paths; len(p) != 1 || !p[0].Rejects {
		t.Errorf("paths %v", p)
	}
}

// reject makes the host answer with a reset what leaves the listening port for other hosts.
func (h *pathPeer) reject(context.Context, struct{}) (struct{}, error) {
	conn := &nftables.Conn{}
	table := conn.AddTable(&nftables.Table{Name: "reject", Family: nftables.TableFamilyIPv4})
	chain := conn.AddChain(&nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(listenPort)},
		&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
	}})
	return struct{}{}, conn.Flush()
}
