package reuseport_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
)

// This file pins what things cost in figures that do not depend on the machine. The times are
// in docs/bench.md. The figures are those of Go 1.26: of the 21 allocations of a dial one is
// ours, the Conn, and the rest are net.Dialer's.

// cost is what one operation allocates.
type cost struct{ allocs, bytes float64 }

// operations is how many of them a figure rests on.
const operations = 500

// costOf calls prepare and measures op, which does operations operations. The least of several
// tries counts, since whatever else runs in the process can only add to it.
func costOf(prepare, op func()) cost {
	least := cost{1e9, 1e9}
	for range 5 {
		prepare()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		op()
		runtime.ReadMemStats(&after)
		least.allocs = min(least.allocs, float64(after.Mallocs-before.Mallocs)/operations)
		least.bytes = min(least.bytes, float64(after.TotalAlloc-before.TotalAlloc)/operations)
	}
	return least
}

// nothing is for an op that needs no preparation.
func nothing() {}

// within fails the test if a cost exceeds the limits.
func (c cost) within(t *testing.T, what string, allocs, bytes float64) {
	t.Helper()
	t.Logf("%s: %.1f allocations, %.0f bytes", what, c.allocs, c.bytes)
	if c.allocs > allocs+0.5 || c.bytes > bytes {
		t.Errorf("%s: %.1f allocations and %.0f bytes, want at most %v and %v", what, c.allocs, c.bytes, allocs, bytes)
	}
}

// TestDialAllocs pins what a dial from a listening port and an Abort allocate. Its peers have been
// dialed before, which costs 112 bytes for getpeername.
func TestDialAllocs(t *testing.T) {
	to := sinkAddrs(t)
	for _, laddr := range []string{"0.0.0.0", ownIP().String()} {
		var tr reuseport.Transport
		listen(t, &tr, "/ip4/"+laddr+"/tcp/0")
		costOf(nothing, func() {
			for _, raddr := range to {
				if err := dialOnce(t, &tr, raddr).Abort(); err != nil {
					t.Fatal(err)
				}
			}
		}).within(t, "dial + Abort from "+laddr, 22, 850)
	}
}

// TestRefusedDialAllocs pins what a refused dial allocates.
func TestRefusedDialAllocs(t *testing.T) {
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/0.0.0.0/tcp/0")
	to := tcpMultiaddr(ownIP(), ownPort())
	costOf(nothing, func() {
		for range operations {
			if _, err := tr.Dial(to); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Fatal(err)
			}
		}
	}).within(t, "refused dial", 18, 600)
}

// TestAcceptAllocs pins what an Accept and an Abort allocate.
func TestAcceptAllocs(t *testing.T) {
	var tr, dialer reuseport.Transport
	l := listen(t, &tr, "/ip4/"+ownIP().String()+"/tcp/0")
	to := slices.Repeat([]ma.Multiaddr{l.Multiaddr()}, operations)
	var waiting []*reuseport.Conn
	costOf(func() {
		abort(t, waiting...)
		waiting = dialAll(t, &dialer, to) // in the accept queue
	}, func() {
		for range operations {
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.(*reuseport.Conn).Abort(); err != nil {
				t.Fatal(err)
			}
		}
	}).within(t, "accept + Abort", 7, 400)
	abort(t, waiting...)
}

// TestHeapPerLiveConnection pins the heap of a live connection.
func TestHeapPerLiveConnection(t *testing.T) {
	to := sinkAddrs(t)
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/0.0.0.0/tcp/0")
	abort(t, dialAll(t, &tr, to[:1])...) // makes what a Transport keeps for all of them
	before := heapInUse()
	conns := dialAll(t, &tr, to)
	each := (heapInUse() - before) / operations
	runtime.KeepAlive(to)
	abort(t, conns...)
	t.Logf("a live dialed connection takes %d bytes of heap", each)
	if each > 380 {
		t.Errorf("a live dialed connection takes %d bytes of heap, want at most 380", each)
	}
}

// heapInUse returns how much live objects take. Finalizers, cleanups and pools let go of things
// one collection later.
func heapInUse() int64 {
	for range 4 {
		runtime.GC()
		time.Sleep(5 * time.Millisecond)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// dialAll dials every address from tr and returns the connections.
func dialAll(t *testing.T, tr *reuseport.Transport, to []ma.Multiaddr) []*reuseport.Conn {
	t.Helper()
	conns := make([]*reuseport.Conn, len(to))
	for i, raddr := range to {
		conns[i] = dialOnce(t, tr, raddr)
	}
	return conns
}

// sinkAddrs returns addresses of a childSink.
func sinkAddrs(t *testing.T) []ma.Multiaddr {
	t.Helper()
	addrs, ip, port := make([]ma.Multiaddr, operations), ownIP(), startSink(t)
	for i := range addrs {
		ip = ip.Next()
		addrs[i] = tcpMultiaddr(ip, port)
	}
	return addrs
}

// startSink starts a childSink and returns its port.
func startSink(t *testing.T) uint16 {
	t.Helper()
	port, err := strconv.ParseUint(startChild(t, "sink").receive(t), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(port)
}

// childSink listens on a free port of all IPv4 addresses, says which, and keeps what it accepts
// until its input ends.
func childSink([]string) error {
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		return err
	}
	fmt.Println(portOf(l.Addr()))
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close() // when the listener ends, not before
		}
	}()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// TestSyscallsPerDial counts, with strace, the system calls of a dial from a listening port that
// ends with Abort. They are two socket options and a bind more than with a plain net.Dialer.
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

// schedules reports whether a call belongs to Go's scheduler, which makes as many as the load of
// the machine asks for.
func schedules(call string) bool {
	switch call {
	case "futex", "nanosleep", "epoll_pwait", "sched_yield", "madvise", "tgkill", "getpid",
		"rt_sigreturn", "rt_sigprocmask", "eventfd2", "read", "write":
		return true
	}
	return false
}

// tracedDials runs a childDials for n dials and returns how often it made each system call.
func tracedDials(t *testing.T, n int) map[string]int {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		skip(t, "no strace: %v", err)
	}
	log := filepath.Join(t.TempDir(), "calls")
	cmd := exec.Command(strace, "-f", "-qq", "-o", log, os.Args[0], fmt.Sprint(startSink(t)), strconv.Itoa(n))
	cmd.Env = childEnv("dials")
	if out, err := cmd.CombinedOutput(); err != nil {
		skip(t, "strace: %v: %s", err, out)
	}
	return countCalls(t, log)
}

// countCalls counts the calls in a log of strace. A line has a process id and a call, or the end
// of a call that another thread interrupted.
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

// childDials dials the port that is its first argument as often as its second says, each time on
// another address.
func childDials(args []string) error {
	var tr reuseport.Transport
	l, err := tr.ListenPort(0)
	if err != nil {
		return err
	}
	defer l.Close()
	port, err := strconv.ParseUint(args[0], 10, 16)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	for ip := ownIP(); n > 0; n-- {
		ip = ip.Next()
		c, err := tr.Dial(tcpMultiaddr(ip, uint16(port)))
		if err != nil {
			return err
		}
		if err := c.(*reuseport.Conn).Abort(); err != nil {
			return err
		}
	}
	return nil
}

// TestBindStaysFlat: bind on the port of our listeners, with 15,000 live connections from it and
// two source addresses in turn, takes about as long as on a port that nobody uses.
func TestBindStaysFlat(t *testing.T) {
	long(t, "dials 15,000 connections")
	live := 15000
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < uint64(live)+200 {
		live = int(limit.Cur) / 2
		t.Logf("RLIMIT_NOFILE is %d: %d connections", limit.Cur, live)
	}
	sinkPort := startSink(t)
	var tr reuseport.Transport
	port := ownPort()
	sources := []netip.Addr{ownIP(), ownIP().Next()}
	for _, ip := range sources {
		listen(t, &tr, tcpMultiaddr(ip, port).String())
	}
	conns := make([]*reuseport.Conn, live)
	for i := range conns {
		ip := netip.AddrFrom4([4]byte{127, 200, byte(i >> 8), byte(i)})
		conns[i] = dialOnce(t, &tr, tcpMultiaddr(ip, sinkPort))
		defer conns[i].Abort()
		if !conns[i].Reused() {
			t.Fatalf("dial %d not reused: %v", i, conns[i].Cause())
		}
	}
	busy, idle := bindTime(t, sources, port), bindTime(t, sources, ownPort())
	t.Logf("bind with %d live connections %v, on an unused port %v", live, busy, idle)
	if busy > 10*idle+20*time.Microsecond {
		t.Errorf("bind is not flat: %v with %d live connections, %v on an unused port", busy, live, idle)
	}
}

// bindTime returns the median time of a bind on the addresses in turn.
func bindTime(t *testing.T, ips []netip.Addr, port uint16) time.Duration {
	t.Helper()
	var times []time.Duration
	for i := range 401 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, opt := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, 1); err != nil {
				t.Fatal(err)
			}
		}
		sa := unix.SockaddrInet4{Addr: ips[i%len(ips)].As4(), Port: int(port)}
		start := time.Now()
		err = unix.Bind(fd, &sa)
		times = append(times, time.Since(start))
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(times)
	return times[len(times)/2]
}
