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

// A host passes only if it says so itself.
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

// The keeper has the pipes of both hosts on descriptors 3 to 6. No host may have them
// there too.
func TestHostInheritsNothing(t *testing.T) {
	t.Parallel()
	n := pair(t, lab.Wire{})
	for _, host := range []string{"r", "s"} {
		if fds := call[[]int](t, n, host, "passed on", 6); len(fds) > 0 {
			t.Errorf("%s inherited the descriptors %v", host, fds)
		}
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

// A closed network leaves no descriptor and no goroutine. The test is not parallel
// because it counts those of the whole process.
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
	cycle() // the first one opens some for good
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

// BenchmarkBuild measures a network of three hosts, up and down.
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

// A killed test takes its network with it, even hosts that ignore its end.
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
	_, _ = io.Copy(io.Discard, out) // until it has ended
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
		_ = cmd.Wait() // its output says more
		if bytes.Contains(seen, []byte(lab.ErrRefused.Error())) && os.Getenv("CI") == "" {
			t.Skipf("%s", seen)
		}
		t.Fatalf("%s", seen)
	}
	return out
}

// marked returns the processes that have marker in their environment. A process that
// is ending no longer has an environment.
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

// fails, leaves, breaks and stubborn are roles that misbehave.

func fails(*lab.Process) error { return os.ErrPermission }

func leaves(*lab.Process) error {
	os.Exit(0)
	return nil
}

// breaks fails only when the test is over.
func breaks(p *lab.Process) error {
	if err := p.Serve(); err != nil {
		return err
	}
	return os.ErrDeadlineExceeded
}

// stubborn does not end when its test does.
func stubborn(p *lab.Process) error {
	go func() { _ = p.Serve() }() // signals that it is ready
	select {}
}
