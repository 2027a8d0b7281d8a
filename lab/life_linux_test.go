package lab_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/lab"
)

// one is a network of one host.
func one(role string) lab.Topology {
	return lab.Topology{Hosts: lab.Hosts{"a": {On: lab.On{"lan": "10.1.0.2/24"}, Role: role}}}
}

// build is lab.Build that skips or fails as lab.Start does.
func build(t *testing.T, topo lab.Topology) (*lab.Network, error) {
	t.Helper()
	n, err := lab.Build(t.Context(), topo)
	if errors.Is(err, lab.ErrRefused) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	return n, err
}

func TestBadTopology(t *testing.T) {
	t.Parallel()
	for name, topo := range map[string]lab.Topology{
		"address":         {Hosts: lab.Hosts{"a": {On: lab.On{"lan": "10.1.0.256/24"}}}},
		"no prefix":       {Hosts: lab.Hosts{"a": {On: lab.On{"lan": "10.1.0.1"}}}},
		"gateway":         {Hosts: lab.Hosts{"a": {Via: "router"}}},
		"link name":       {Hosts: lab.Hosts{"a": {On: lab.On{"a-name-too-long-for-linux": ""}}}},
		"loopback":        {Hosts: lab.Hosts{"a": {On: lab.On{"lo": "127.0.0.2/8"}}}},
		"three ends":      {Hosts: lab.Hosts{"a": {On: lab.On{"l": ""}}, "b": {On: lab.On{"l": ""}}, "c": {On: lab.On{"l": ""}}}},
		"no outside":      {Hosts: lab.Hosts{"a": {NAT: &lab.NAT{Outside: "wire"}}}},
		"NAT + firewall":  {Hosts: lab.Hosts{"a": {On: lab.On{"l": ""}, NAT: &lab.NAT{Outside: "l"}, Firewall: &lab.Firewall{Outside: "l"}}}},
		"mapping":         {Hosts: lab.Hosts{"a": {On: lab.On{"l": ""}, NAT: &lab.NAT{Outside: "l", Mapping: 3}}}},
		"filtering":       {Hosts: lab.Hosts{"a": {On: lab.On{"l": ""}, NAT: &lab.NAT{Outside: "l", Filtering: -1}}}},
		"unsolicited":     {Hosts: lab.Hosts{"a": {On: lab.On{"l": ""}, Firewall: &lab.Firewall{Outside: "l", Unsolicited: 2}}}},
		"loss":            {Wires: lab.Wires{"w": {Loss: 1.5}}},
		"match":           {Wires: lab.Wires{"w": {Drop: []lab.Match{{Dst: "10.0.0.0/33"}}}}},
		"route":           {Hosts: lab.Hosts{"a": {Routes: []lab.Route{{To: "everywhere"}}}}},
		"route's gateway": {Hosts: lab.Hosts{"a": {Routes: []lab.Route{{To: "default", Via: "router"}}}}},
		"rule":            {Hosts: lab.Hosts{"a": {Rules: []lab.Rule{{To: "nowhere", Table: 1}}}}},
		"rule's table":    {Hosts: lab.Hosts{"a": {Rules: []lab.Rule{{Proto: "tcp"}}}}},
		"rule's protocol": {Hosts: lab.Hosts{"a": {Rules: []lab.Rule{{Proto: "sctp", Table: 1}}}}},
		"sysctl":          {Hosts: lab.Hosts{"a": {Sysctls: map[string]string{"kernel.hostname": "x"}}}},
		"role":            one("nobody"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := build(t, topo); !errors.Is(err, lab.ErrTopology) {
				t.Errorf("got %v, want ErrTopology", err)
			}
		})
	}
}

// A host that does not say itself that it passed has not.
func TestHostMustPass(t *testing.T) {
	t.Parallel()
	if _, err := build(t, one("fails")); !errors.Is(err, os.ErrPermission) {
		t.Errorf("a role that fails: %v, want its error", err)
	}
	if _, err := build(t, one("leaves")); err == nil {
		t.Error("a role that exits without a word: no error")
	}
	n, err := build(t, one("breaks"))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a role that fails at the end: %v, want its error", err)
	}
	if err := n.Close(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("closing again: %v, want the same", err)
	}
}

func TestCallErrors(t *testing.T) {
	t.Parallel()
	n := lab.Start(t, one("plain"))
	_, err := observe(t, n, "a", "", "127.0.0.1:9")
	var remote *lab.RemoteError
	if !errors.Is(err, syscall.ECONNREFUSED) || !errors.As(err, &remote) || remote.Host != "a" || remote.Op != "observe" {
		t.Errorf("refused: %v", err)
	}
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v is more than refused", err)
	}
	if err := n.Call(t.Context(), "a", "dance", nil, nil); err == nil {
		t.Error("an op that no handler has: no error")
	}
	if err := n.Call(t.Context(), "z", "observe", nil, nil); !errors.Is(err, lab.ErrTopology) {
		t.Errorf("an unknown host: %v", err)
	}
	if err := n.AddAddr("z", "lan", "10.1.0.3/24"); !errors.Is(err, lab.ErrTopology) {
		t.Errorf("a change to an unknown host: %v", err)
	}
	if err := n.SetWire("z", lab.Wire{}); !errors.Is(err, lab.ErrTopology) {
		t.Errorf("a change to an unknown wire: %v", err)
	}
}

// A network that is closed leaves no descriptor and no goroutine. Not parallel:
// it counts those of the whole process.
func TestLeavesNothing(t *testing.T) {
	topo := one("plain")
	topo.Hosts["a"].On["wire"] = ""
	topo.Wires = lab.Wires{"wire": {}}
	cycle := func() {
		n, err := build(t, topo)
		if err == nil {
			err = n.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cycle() // what the first one opens for good
	before := held(t)
	for range 3 {
		cycle()
	}
	for range 100 { // goroutines take a moment to end
		if now := held(t); now.descriptors <= before.descriptors && now.goroutines <= before.goroutines {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("after three networks %+v, before them %+v", held(t), before)
}

// BenchmarkBuild is the cost of a network of three, up and down.
func BenchmarkBuild(b *testing.B) {
	topo := one("plain")
	topo.Hosts["a"].On["wire"] = "192.0.0.80/24"
	topo.Hosts["b"] = lab.Host{On: lab.On{"wire": "192.0.0.81/24"}, Role: "plain"}
	topo.Hosts["c"] = lab.Host{On: lab.On{"wire": "192.0.0.82/24"}}
	topo.Wires = lab.Wires{"wire": {}}
	for b.Loop() {
		n, err := lab.Build(b.Context(), topo)
		if err == nil {
			err = n.Close()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// holdings are what a process holds.
type holdings struct{ descriptors, goroutines int }

func held(t *testing.T) holdings {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return holdings{len(open), runtime.NumGoroutine()}
}

// A host sees its own interfaces and no other.
func TestIsolation(t *testing.T) {
	t.Parallel()
	topo := one("plain")
	topo.Hosts["a"].On["wire"] = ""
	topo.Hosts["b"] = lab.Host{On: lab.On{"lan": "10.1.0.3/24"}, Role: "plain"}
	topo.Wires = lab.Wires{"wire": {}}
	n := lab.Start(t, topo)
	for host, want := range map[string][]string{"a": {"lan", "lo", "wire"}, "b": {"lan", "lo"}} {
		got, err := lab.Call[[]string](t.Context(), n, host, "interfaces", struct{}{})
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s has %v, %v, want %v", host, got, err, want)
		}
	}
}

func TestSysctl(t *testing.T) {
	t.Parallel()
	const name = "net.ipv4.tcp_timestamps"
	topo := one("plain")
	a := topo.Hosts["a"]
	a.Sysctls = map[string]string{name: "0"}
	topo.Hosts["a"] = a
	n := lab.Start(t, topo)
	if got, err := lab.Call[string](t.Context(), n, "a", "sysctl", name); err != nil || got != "0" {
		t.Errorf("%s is %q, %v, asked for 0", name, got, err)
	}
	if err := n.SetSysctl("a", name, "1"); err != nil {
		t.Fatal(err)
	}
	if got, err := lab.Call[string](t.Context(), n, "a", "sysctl", name); err != nil || got != "1" {
		t.Errorf("%s is %q, %v, set to 1", name, got, err)
	}
}

// A link that is down carries nothing, and does again when it is up.
func TestLinkDown(t *testing.T) {
	t.Parallel()
	n := pair(t, lab.Wire{})
	listen(t, n, "s", ":7001")
	if err := n.SetLink("s", "wire", false); err != nil {
		t.Fatal(err)
	}
	if _, err := observe(t, n, "r", "", "192.0.0.81:7001"); err == nil {
		t.Error("reached a host whose link is down")
	}
	if err := n.SetLink("s", "wire", true); err != nil {
		t.Fatal(err)
	}
	var err error
	for range 20 { // until the kernel gives up the neighbour look-up that failed, 3 s
		if _, err = observe(t, n, "r", "", "192.0.0.81:7001"); !errors.Is(err, syscall.EHOSTUNREACH) {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	if err != nil {
		t.Errorf("link is up again: %v", err)
	}
}

// envMarker is in the environment of a test binary that another test started,
// and of all that it starts: its value finds them.
const envMarker = "REUSEPORT_LAB_TEST_MARKER"

// underTest is this binary, to run one test with more environment.
func underTest(name string, env ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+name+"$", "-test.v")
	cmd.Env = append(os.Environ(), env...)
	return cmd
}

// A killed test takes its network with it, hosts that do not care included.
func TestEndsWithParent(t *testing.T) {
	t.Parallel()
	if os.Getenv(envMarker) != "" {
		lab.Start(t, one("stubborn"))
		fmt.Println(standing)
		_, err := io.Copy(io.Discard, os.Stdin) // until it is killed
		t.Fatal("not killed", err)
	}
	marker := fmt.Sprintf("%s=%d-%d", envMarker, os.Getpid(), time.Now().UnixNano())
	cmd := underTest("TestEndsWithParent", marker)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	out := awaitStanding(t, cmd)
	if got := len(marked(t, marker)); got != 3 {
		t.Errorf("%d processes, want the test, the keeper and the host", got)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, out) // to its end
	_ = cmd.Wait()                  // "signal: killed"
	for range 200 {
		if len(marked(t, marker)) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("%v outlive their test", marked(t, marker))
}

const standing = "the network stands"

// awaitStanding starts cmd and waits for its network.
func awaitStanding(t *testing.T, cmd *exec.Cmd) io.Reader {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var seen []byte
	for b := make([]byte, 512); !bytes.Contains(seen, []byte(standing)); {
		n, err := out.Read(b)
		seen = append(seen, b[:n]...)
		if err == nil {
			continue
		}
		_ = cmd.Wait() // what it wrote says more
		if bytes.Contains(seen, []byte(lab.ErrRefused.Error())) && os.Getenv("CI") == "" {
			t.Skipf("%s", seen)
		}
		t.Fatalf("%s", seen)
	}
	return out
}

// marked lists the processes that have marker in their environment. A process
// that is ending has no environment any more.
func marked(t *testing.T, marker string) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(path string) bool {
		env, err := os.ReadFile(path)
		return err != nil || !strings.Contains(string(env), marker)
	})
}

// Where namespaces are refused, a test is skipped with the reason, or fails if
// CI is set.
func TestRefused(t *testing.T) {
	t.Parallel()
	if os.Getenv(envMarker) != "" {
		refuseNamespaces(t)
		lab.Start(t, one("plain"))
		return
	}
	for ci, want := range map[string]string{"CI=": "--- SKIP: TestRefused", "CI=1": "--- FAIL: TestRefused"} {
		cmd := underTest("TestRefused", envMarker+"=1", ci)
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, syscall.EPERM) && os.Getenv("CI") == "" {
			t.Skip("user namespaces are refused:", err)
		}
		if !strings.Contains(string(out), want) || !strings.Contains(string(out), lab.ErrRefused.Error()) {
			t.Errorf("%s: %v, want %q and the reason in\n%s", ci, err, want, out)
		}
	}
}

// refuseNamespaces forbids them inside the user namespace of this process.
func refuseNamespaces(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/user/max_net_namespaces", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
}
