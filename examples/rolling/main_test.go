//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// asRolling makes the test binary run the program instead of the tests. Workers
// inherit it.
const asRolling = "RUN_ROLLING"

func TestMain(m *testing.M) {
	if os.Getenv(asRolling) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// supervisor is a running supervisor process.
type supervisor struct {
	cmd  *exec.Cmd
	out  *bufio.Reader
	addr string
}

func startSupervisor(t *testing.T, workers int) *supervisor {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-port", "0", "-workers", fmt.Sprint(workers))
	cmd.Env = append(os.Environ(), asRolling+"=1", "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &supervisor{cmd: cmd, out: bufio.NewReader(out)}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = cmd.Wait()                          // as above
	})
	port := strings.TrimPrefix(s.line(t), "port ")
	s.addr = net.JoinHostPort("127.0.0.1", port)
	return s
}

func (s *supervisor) line(t *testing.T) string {
	t.Helper()
	line, err := s.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// tally counts answers and keeps errors.
type tally struct {
	mu      sync.Mutex
	answers map[string]int
	errs    []error
}

func (y *tally) add(answer string, err error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if err != nil {
		y.errs = append(y.errs, err)
		return
	}
	y.answers[answer]++
}

// ask makes one connection and reads it to its end.
func ask(addr string) (string, error) {
	c, err := net.DialTimeout("tcp4", addr, 20*time.Second)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }() // all has been read
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, "who?\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(c)
	if err == nil && !strings.HasPrefix(string(answer), "worker ") {
		err = fmt.Errorf("answer %q", answer)
	}
	return strings.TrimSpace(string(answer)), err
}

// Connections go to all workers. While each worker is replaced twice under load, no
// connection is refused, reset or left without an answer.
func TestRollingRestartLosesNone(t *testing.T) {
	const workers, rounds = 3, 2
	s := startSupervisor(t, workers)
	y := &tally{answers: make(map[string]int)}
	done := make(chan struct{})
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() { askUntil(done, s.addr, y) })
	}
	for range rounds {
		time.Sleep(300 * time.Millisecond) // some load for each set of workers
		if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if got := s.line(t); got != "replaced" {
			t.Fatalf("supervisor said %q", got)
		}
	}
	time.Sleep(300 * time.Millisecond)
	close(done)
	clients.Wait()
	y.check(t, workers, workers*(rounds+1))
}

func askUntil(done <-chan struct{}, addr string, y *tally) {
	for {
		select {
		case <-done:
			return
		default:
			y.add(ask(addr))
		}
	}
}

func (y *tally) check(t *testing.T, workers, processes int) {
	t.Helper()
	total := 0
	for _, n := range y.answers {
		total += n
	}
	t.Logf("%d connections, %d lost, by %d processes: %v", total, len(y.errs), len(y.answers), y.answers)
	for _, err := range y.errs {
		t.Error(err)
	}
	if runtime.GOOS == "linux" && len(y.answers) != processes {
		t.Errorf("%d processes answered, want all %d", len(y.answers), processes)
	}
	if total < 10*workers {
		t.Errorf("only %d connections", total)
	}
}

// SIGTERM ends the workers too.
func TestStop(t *testing.T) {
	s := startSupervisor(t, 2)
	if _, err := ask(s.addr); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("supervisor ended with %v", err)
	}
	if answer, err := ask(s.addr); err == nil {
		t.Errorf("still served: %q", answer)
	}
}

// A worker that dies before it accepts is not taken for ready, so the old one stays.
func TestDeadWorkerIsNotReady(t *testing.T) {
	t.Setenv(asRolling, "1")
	noSocket, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = noSocket.Close() }() // it is empty
	old := new(exec.Cmd)
	workers := []*exec.Cmd{old}
	if err := replaceAll(workers, []*os.File{noSocket}); !errors.Is(err, io.EOF) {
		t.Errorf("%v, want io.EOF", err)
	}
	if workers[0] != old {
		t.Error("the old worker was given up")
	}
}

// Ctrl-C reaches the workers too, and they ignore it: the supervisor acts on it. On
// SIGHUP a worker that has crashed is replaced like the others.
func TestSignalsToWorkers(t *testing.T) {
	s := startSupervisor(t, 1)
	first := s.worker(t)
	if err := errors.Join(syscall.Kill(first, syscall.SIGINT), syscall.Kill(first, syscall.SIGHUP)); err != nil {
		t.Fatal(err)
	}
	if again := s.worker(t); again != first {
		t.Errorf("worker %d answers, want %d", again, first)
	}
	if err := errors.Join(syscall.Kill(first, syscall.SIGKILL), s.cmd.Process.Signal(syscall.SIGHUP)); err != nil {
		t.Fatal(err)
	}
	if next := s.worker(t); next == first {
		t.Errorf("the dead worker %d answers", first)
	}
}

// worker returns the pid of the worker that answers.
func (s *supervisor) worker(t *testing.T) (pid int) {
	t.Helper()
	var number int
	answer, err := ask(s.addr)
	if err == nil {
		_, err = fmt.Sscanf(answer, "worker %d pid %d", &number, &pid)
	}
	if err != nil {
		t.Fatalf("%q, %v", answer, err)
	}
	return pid
}

// Bad flags are an error: rolling does not pick another port or run without workers.
func TestBadFlags(t *testing.T) {
	for _, args := range [][]string{{"-port", "70000"}, {"-workers", "0"}, {"-workers", "-1"}, {"8080"}} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, os.Args[0], args...)
		cmd.Env = append(os.Environ(), asRolling+"=1")
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "-port must be") {
			t.Errorf("%v: %v, %s", args, err, out)
		}
	}
}
