package reuseport_test

import (
	"bufio"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestSyscallsPerDial counts what the kernel is asked for in a dial from a listening
// port that ends with Abort, with strace. Against a plain net.Dialer that is two
// socket options and a bind more.
func TestSyscallsPerDial(t *testing.T) {
	few, many := tracedDials(t, 20), tracedDials(t, 120)
	want := map[string]int{
		"socket":      1,
		"setsockopt":  8, // address and port reuse, no delay, four of keep-alive, linger
		"bind":        1,
		"connect":     1,
		"epoll_ctl":   2, // in and out
		"getsockopt":  1, // how connect went
		"getsockname": 1, "getpeername": 1,
		"close": 1,
	}
	got := make(map[string]int)
	for call := range many {
		if n := (many[call] - few[call] + 50) / 100; n > 0 && !schedules(call) {
			got[call] = n
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("system calls per dial: %v, want %v", got, want)
	}
}

// schedules says whether a call belongs to the scheduler, which makes as many as the
// load of the machine asks for.
func schedules(call string) bool {
	switch call {
	case "futex", "nanosleep", "epoll_pwait", "sched_yield", "madvise", "tgkill", "getpid",
		"rt_sigreturn", "rt_sigprocmask", "eventfd2", "read", "write":
		return true
	}
	return false
}

// tracedDials runs a child that dials n times and returns how often it made each
// system call.
func tracedDials(t *testing.T, n int) map[string]int {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		skip(t, "no strace: %v", err)
	}
	log := filepath.Join(t.TempDir(), "calls")
	port := startChild(t, "sink").receive(t)
	cmd := exec.Command(strace, "-f", "-qq", "-o", log, os.Args[0], port, strconv.Itoa(n))
	cmd.Env = append(os.Environ(), roleVariable+"=dials")
	if out, err := cmd.CombinedOutput(); err != nil {
		skip(t, "strace: %v: %s", err, out)
	}
	return countCalls(t, log)
}

// countCalls counts the calls in a log of strace: a line is a process id and a call
// or, of a call that another thread interrupted, its end.
func countCalls(t *testing.T, log string) map[string]int {
	t.Helper()
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	calls := make(map[string]int)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		if name, _, ok := strings.Cut(fields[1], "("); ok {
			calls[name]++
		}
	}
	return calls
}
