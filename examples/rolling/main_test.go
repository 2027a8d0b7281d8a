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

// startSupervisor starts the program. It gets SIGTERM, and so ends its workers, with
// the test or after a minute.
func startSupervisor(t *testing.T, workers int) *supervisor {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	cmd := exec.CommandContext(ctx, os.Args[0], "-port", "0", "-workers", fmt.Sprint(workers))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
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
		cancel()
		_ = cmd.Wait() // TestStop has waited
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

// replace makes the supervisor replace all workers and waits until it has. The first
// set of workers is then ready too: the supervisor starts it before it handles
// signals.
func (s *supervisor) replace(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if got := s.line(t); got != "replaced" {
		t.Fatalf("supervisor said %q", got)
	}
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

// count is how many connections were answered, by how many processes, and how many
// were lost.
func (y *tally) count() (answered, processes, lost int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, n := range y.answers {
		answered += n
	}
	return answered, len(y.answers), len(y.errs)
}

// await waits until the given number of processes have answered, and 100 connections
// more than before, or until one is lost. Elsewhere than on Linux one worker may get
// all connections, so there the processes do not count.
func (y *tally) await(t *testing.T, processes int) {
	t.Helper()
	before, _, _ := y.count()
	for end := time.Now().Add(2 * patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		answered, by, lost := y.count()
		if lost > 0 || answered >= before+100 && (by >= processes || runtime.GOOS != "linux") {
			return
		}
	}
	answered, by, _ := y.count()
	t.Errorf("%d connections were answered by %d processes, want %d processes", answered-before, by, processes)
}

// ask makes one connection and reads it to its end.
func ask(addr string) (string, error) {
	c, err := connect(addr)
	if err != nil {
		return "", err
	}
	return answer(c)
}

func connect(addr string) (net.Conn, error) {
	c, err := net.DialTimeout("tcp4", addr, 2*patience)
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(2 * patience))
}

// answer asks a worker who it is, reads the connection to its end and closes it.
func answer(c net.Conn) (string, error) {
	defer func() { _ = c.Close() }() // all has been read
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
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() { askUntil(ctx, s.addr, y) })
	}
	for round := range rounds {
		y.await(t, workers*(round+1))
		s.replace(t)
	}
	y.await(t, workers*(rounds+1))
	stop()
	clients.Wait()
	t.Logf("%d lost, answers: %v", len(y.errs), y.answers)
	for _, err := range y.errs {
		t.Error(err)
	}
}

func askUntil(ctx context.Context, addr string, y *tally) {
	for ctx.Err() == nil {
		y.add(ask(addr))
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
	old := new(process)
	team := newTeam([]*os.File{noSocket})
	team.workers[0] = old
	if err := team.replaceAll(); !errors.Is(err, io.EOF) {
		t.Errorf("%v, want io.EOF", err)
	}
	if team.workers[0] != old {
		t.Error("the old worker was given up")
	}
}

// Ctrl-C reaches the workers too, and they ignore it: the supervisor acts on it.
func TestSignalsToWorkers(t *testing.T) {
	s := startSupervisor(t, 1)
	first := s.worker(t)
	if err := errors.Join(syscall.Kill(first, syscall.SIGINT), syscall.Kill(first, syscall.SIGHUP)); err != nil {
		t.Fatal(err)
	}
	if again := s.worker(t); again != first {
		t.Errorf("worker %d answers, want %d", again, first)
	}
}

// After a worker is killed, its share of the connections is answered by another one.
func TestKilledWorker(t *testing.T) {
	const workers = 3
	s := startSupervisor(t, workers)
	s.replace(t) // all are ready
	kill(t, s.worker(t))
	answers := make(map[int]int)
	for range 100 {
		answers[s.worker(t)]++
	}
	if runtime.GOOS == "linux" && len(answers) != workers {
		t.Errorf("%v answered, want %d workers", answers, workers)
	}
}

// A worker that crashes again and again is started again and again, but no more than
// once in restartPause. What waits in its queue meanwhile is answered.
func TestCrashLoop(t *testing.T) {
	s := startSupervisor(t, 1)
	start, killed := time.Now(), make(map[int]bool)
	s.replace(t) // the worker started after start, and is ready
	for range 3 {
		last := s.worker(t)
		kill(t, last)
		killed[last] = true
	}
	if last := s.worker(t); killed[last] || len(killed) != 3 {
		t.Errorf("%d answers, after %v were killed", last, killed)
	}
	if took := time.Since(start); took < 3*restartPause {
		t.Errorf("three restarts took %v", took)
	}
}

// kill kills a worker and waits until the supervisor knows.
func kill(t *testing.T, pid int) {
	t.Helper()
	err := syscall.Kill(pid, syscall.SIGKILL)
	for end := time.Now().Add(patience); err == nil && time.Now().Before(end); time.Sleep(time.Millisecond) {
		err = syscall.Kill(pid, 0)
	}
	if !errors.Is(err, syscall.ESRCH) {
		t.Fatalf("%v, want ESRCH", err)
	}
}

// SIGHUP at the time of a crash does no harm: what waits in the queue is answered by
// the next worker.
func TestCrashedWorker(t *testing.T) {
	s := startSupervisor(t, 1)
	s.replace(t) // a worker answers before the supervisor knows that it is ready, and must not die then
	held := s.connect(t)
	first := s.worker(t) // which has accepted held before
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, held)
	waiting := s.connect(t)
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if next := pid(t, waiting); next == first {
		t.Errorf("the dead worker %d answers", first)
	}
}

// awaitEnd waits for the end of a killed process that has accepted c. The system
// closes its sockets when its last thread has ended, so it accepts nothing after that.
func awaitEnd(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
		t.Fatalf("%v, want ECONNRESET or EOF", err)
	}
}

func (s *supervisor) connect(t *testing.T) net.Conn {
	t.Helper()
	c, err := connect(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // may be closed
	return c
}

// worker returns the pid of the worker that answers.
func (s *supervisor) worker(t *testing.T) int {
	t.Helper()
	return pid(t, s.connect(t))
}

// pid returns the pid of the worker that answers on c.
func pid(t *testing.T, c net.Conn) (pid int) {
	t.Helper()
	var number int
	answer, err := answer(c)
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
