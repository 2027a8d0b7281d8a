//go:build linux

package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport/lab"
)

const (
	// patience is how long a dial waits for an answer. On an idle machine it takes a
	// few milliseconds.
	patience = 2 * time.Second

	// silence is how long a dial waits when no answer is to come.
	silence = 500 * time.Millisecond
)

// Addresses that the hosts of twoNetworks listen on.
const (
	eastV4, eastV6 = "/ip4/10.1.0.2/tcp/7001", "/ip6/fd01::2/tcp/7001"
	westV4, westV6 = "/ip4/10.2.0.2/tcp/7001", "/ip6/fd02::2/tcp/7001"
	farV4, farV6   = "/ip4/10.9.0.9/tcp/7001", "/ip6/fd09::9/tcp/7001"
)

// viaWest is a routing table whose way to far leads through the west.
const viaWest = 100

// envMarker is set for a test binary that another test starts, and inherited by every
// process that it starts. Its value finds them.
const envMarker = "REUSEPORT_LAB_TEST_MARKER"

// Offsets in struct seccomp_data. seccompArg0 is the argument's low half on
// little-endian systems, which are all that Android runs on.
const (
	seccompNr   = 0
	seccompArg0 = 16
)

func TestMain(m *testing.M) {
	lab.Main(m, lab.Roles{
		"close": closeRole, "ours": ourPeer, "bare": barePeer, "libp2p": libp2pPeer, "denied": deniedPeer,
		"path": pathRole, "v4only": v4only, "unreached": unreached,
		"plain": plain, "fails": fails, "leaves": leaves, "breaks": breaks, "stubborn": stubborn,
	})
}

// one returns a network of one host.
func one(role string) lab.Topology {
	return lab.Topology{Hosts: lab.Hosts{"a": {On: lab.On{"lan": "10.1.0.2/24"}, Role: role}}}
}

// build is lab.Build, but skips or fails as lab.Start does.
func build(t *testing.T, topo lab.Topology) (*lab.Network, error) {
	t.Helper()
	n, err := lab.Build(t.Context(), topo)
	if errors.Is(err, lab.ErrRefused) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	return n, err
}

func listen(t *testing.T, n *lab.Network, host, addr string) {
	t.Helper()
	if err := n.Call(t.Context(), host, "listen", addr, nil); err != nil {
		t.Fatal(err)
	}
}

// observe makes host dial and returns the address that the other side saw.
func observe(t *testing.T, n *lab.Network, host, from, to string) (netip.AddrPort, error) {
	t.Helper()
	return lab.Call[netip.AddrPort](t.Context(), n, host, "observe", plainDial{From: from, To: to, Timeout: patience})
}

// wantDial makes host dial and demands the error want, which may be nil.
func wantDial(t *testing.T, n *lab.Network, host, from, to string, want error) {
	t.Helper()
	d := plainDial{From: from, To: to, Timeout: patience}
	if want == os.ErrDeadlineExceeded {
		d.Timeout = silence
	}
	if err := n.Call(t.Context(), host, "observe", d, nil); !errors.Is(err, want) {
		t.Errorf("%s dials %s from %q: %v, want %v", host, to, from, err, want)
	}
}

func families() map[string]func(v4, v6 string) string {
	return map[string]func(v4, v6 string) string{
		"IPv4": func(v4, _ string) string { return v4 },
		"IPv6": func(_, v6 string) string { return v6 },
	}
}

// pair is the smallest network with a wire.
//
//	r ── wire ── s
func pair(t *testing.T, wire lab.Wire) *lab.Network {
	t.Helper()
	return lab.Start(t, lab.Topology{
		Wires: lab.Wires{"wire": wire},
		Hosts: lab.Hosts{
			"r": {On: lab.On{"wire": "192.0.0.80/24 fd00::80/64"}, Role: "plain"},
			"s": {On: lab.On{"wire": "192.0.0.81/24 fd00::81/64"}, Role: "plain"},
		},
	})
}

func packets(t *testing.T, n *lab.Network) lab.Log {
	t.Helper()
	log, err := n.Log("wire")
	if err != nil {
		t.Fatal(err)
	}
	if log.Missed != 0 {
		t.Fatalf("the log missed %d packets", log.Missed)
	}
	return log
}

func call[Out any](t *testing.T, n *lab.Network, host, op string, in any) Out {
	t.Helper()
	out, err := lab.Call[Out](t.Context(), n, host, op, in)
	if err != nil {
		t.Errorf("%s: %s: %v", host, op, err)
	}
	return out
}

// twoNetworks returns a host between two networks. Behind each of them is far, with
// the same address in both. The main table reaches it through the east.
//
//	e ──east── h ──west── w
//	10.1.0.0/24   10.2.0.0/24    far = 10.9.0.9 at e and at w
func twoNetworks(t *testing.T, role string) *lab.Network {
	t.Helper()
	n := lab.Start(t, lab.Topology{Hosts: lab.Hosts{
		"h": {
			On:   lab.On{"east": "10.1.0.1/24 fd01::1/64", "west": "10.2.0.1/24 fd02::1/64"},
			Role: role,
			Routes: []lab.Route{
				{To: "10.9.0.0/16", Via: "10.1.0.2"}, {To: "fd09::/64", Via: "fd01::2"},
				{To: "10.9.0.0/16", Via: "10.2.0.2", Table: viaWest}, {To: "fd09::/64", Via: "fd02::2", Table: viaWest},
			},
		},
		"e": {On: lab.On{"east": "10.1.0.2/24 fd01::2/64", "far": "10.9.0.9/32 fd09::9/128"}, Role: "plain"},
		"w": {On: lab.On{"west": "10.2.0.2/24 fd02::2/64", "far2": "10.9.0.9/32 fd09::9/128"}, Role: "plain"},
	}})
	listen(t, n, "e", ":7001")
	listen(t, n, "w", ":7001")
	return n
}

// listenOnBoth makes h listen on a port of its own in each network.
func listenOnBoth(t *testing.T, n *lab.Network, pick func(v4, v6 string) string) {
	t.Helper()
	listen(t, n, "h", pick("/ip4/10.1.0.1/tcp/4001", "/ip6/fd01::1/tcp/4001"))
	listen(t, n, "h", pick("/ip4/10.2.0.1/tcp/4002", "/ip6/fd02::1/tcp/4002"))
}

func dial(t *testing.T, n *lab.Network, to dialTo) (dialed, error) {
	t.Helper()
	return lab.Call[dialed](t.Context(), n, "h", "dial", to)
}

// wantFrom dials from h and demands the local address from: reported as reused, and
// seen by the other side.
func wantFrom(t *testing.T, n *lab.Network, name string, to dialTo, from string) {
	t.Helper()
	d, err := dial(t, n, to)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if want := netip.MustParseAddrPort(from); d.Local != want || d.Seen != want || !d.Reused {
		t.Errorf("%s: from %v, seen as %v, reused %v (%s), want %v", name, d.Local, d.Seen, d.Reused, d.Cause, want)
	}
}

// underTest returns a command that runs one test of this binary with more
// environment.
func underTest(name string, env ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+name+"$", "-test.v")
	cmd.Env = append(os.Environ(), env...)
	return cmd
}

// deny makes socket fail for a family, in all threads.
func deny(family uint32, with unix.Errno) error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: seccompNr},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SOCKET, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: seccompArg0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: family, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(with)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}
