package reuseport_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
)

// These tests attack a server that answers a request and closes, as HTTP's "Connection:
// close" does. The attackers are dribblers: they send a request, never close, and go on
// sending. What Close keeps for them must be bounded, cheap and in nobody's way. Beside it
// runs the same server with package net.

// answerSize is how much a server answers.
const answerSize = 1000

// An answerer answers each request, a line, with data and closes.
type answerer struct {
	accept func() (net.Conn, error)
	data   []byte
	base   int          // descriptors that are no connections
	served atomic.Int32 // connections that were accepted, and whose Close has not returned
}

// childAnswer is an answerer. Its arguments are the kind, "reuseport" or "net", the address,
// the size of an answer, and the limit of descriptors, 0 for as it is. It says its address and
// then answers each line of input with an answererState.
func childAnswer(args []string) error {
	size, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	if err := limitAllDescriptors(args[3]); err != nil {
		return err
	}
	a := &answerer{data: pattern(size)}
	l, err := a.listen(args[0], args[1])
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Println(l.Addr())
	a.base = descriptors()
	go a.serve()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(a.state())
	}
	return nil
}

// limitAllDescriptors sets the limit of descriptors, unless it is to stay.
func limitAllDescriptors(arg string) error {
	n, err := strconv.ParseUint(arg, 10, 64)
	if err != nil || n == 0 {
		return err
	}
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: n})
}

// listen listens with kind.
func (a *answerer) listen(kind, address string) (interface {
	io.Closer
	Addr() net.Addr
}, error) {
	if kind == "net" {
		l, err := net.Listen("tcp4", address+":0")
		if err == nil {
			a.accept = l.Accept
		}
		return l, err
	}
	tr := reuseport.Transport{FlushTimeout: time.Minute} // as long as the tests take
	l, err := tr.Listen(ma.StringCast("/ip4/" + address + "/tcp/0"))
	if err == nil {
		a.accept = func() (net.Conn, error) { return l.Accept() }
	}
	return l, err
}

// serve accepts until the listener is closed. While descriptors are out it tries again, as
// net/http does.
func (a *answerer) serve() {
	for {
		c, err := a.accept()
		if errors.Is(err, syscall.EMFILE) {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		if err != nil {
			return
		}
		a.served.Add(1)
		go a.answer(c)
	}
}

func (a *answerer) answer(c net.Conn) {
	defer a.served.Add(-1)
	defer c.Close()
	if _, err := bufio.NewReader(c).ReadString('\n'); err == nil {
		c.Write(a.data) // fails if the client has reset
	}
}

// An answererState is what an answerer says of itself.
type answererState struct {
	served     int // connections that it has not closed yet
	kept       int // descriptors of closed connections, exact while none is served
	goroutines int
	cpu        time.Duration // of the process, in it and in the kernel
}

func (a *answerer) state() string {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return err.Error()
	}
	before, goroutines := a.served.Load(), runtime.NumGoroutine()
	served := int(max(before, a.served.Load())) // connections come and go meanwhile
	return fmt.Sprint(served, descriptors()-a.base-served, goroutines, u.Utime.Nano()+u.Stime.Nano())
}

// A server is a childAnswer.
type server struct {
	*child
	address string
}

func startServer(t *testing.T, kind, ip string, size, limit int) server {
	t.Helper()
	c := startChild(t, "answer", kind, ip, fmt.Sprint(size), fmt.Sprint(limit))
	return server{c, c.receive(t)}
}

func (s server) state(t *testing.T) (now answererState) {
	t.Helper()
	answer := s.ask(t, "")
	if _, err := fmt.Sscan(answer, &now.served, &now.kept, &now.goroutines, &now.cpu); err != nil {
		t.Fatalf("the server says %q: %v", answer, err)
	}
	return now
}

// awaitState waits until is reports true, and returns the state then.
func (s server) awaitState(t *testing.T, what string, is func(answererState) bool) (now answererState) {
	t.Helper()
	if !await(t, what, func() bool { now = s.state(t); return is(now) }) {
		t.Fatalf("the server's state: %+v", now)
	}
	return now
}

// wantHonest sends n requests, one after the other, and returns how long the slowest took. All must
// be answered whole.
func (s server) wantHonest(t *testing.T, n int) (slowest time.Duration) {
	t.Helper()
	for i := range n {
		start := time.Now()
		if err := requestWhole(s.address); err != nil {
			t.Fatalf("honest request %d of %d: %v", i+1, n, err)
		}
		slowest = max(slowest, time.Since(start))
		time.Sleep(5 * time.Millisecond)
	}
	return slowest
}

// requestWhole sends a request and returns an error unless the whole answer and EOF come before
// patience ends.
func requestWhole(address string) error {
	c, err := net.DialTimeout("tcp4", address, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "honest\n"); err != nil {
		return err
	}
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, pattern(answerSize)) {
		return fmt.Errorf("%d of %d bytes: %w", len(got), answerSize, err)
	}
	return nil
}

// dribbleEach is how often a dribbler sends a byte.
const dribbleEach = 700 * time.Millisecond

// dribble sends a request and goes on sending until the server resets or ctx ends. It reads
// nothing.
func dribble(ctx context.Context, address string) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp4", address)
	if err != nil {
		pause(ctx, 10*time.Millisecond)
		return
	}
	defer c.Close()
	for _, err = io.WriteString(c, "dribble\n"); err == nil && pause(ctx, dribbleEach); {
		_, err = c.Write([]byte("x"))
	}
}

// pause waits for d. It reports false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// attack runs n attackers until stop is called.
func attack(ctx context.Context, n int, attacker func(ctx context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	for range n {
		all.Go(func() { attacker(ctx) })
	}
	return func() { cancel(); all.Wait() }
}

// serversUnderAttack runs f against a server with package net and one with a Transport, on
// loopback and beyond.
func serversUnderAttack(t *testing.T, f func(t *testing.T, kind, ip string)) {
	for _, ip := range []string{"127.0.0.1", "10.0.0.1"} {
		for _, kind := range []string{"net", "reuseport"} {
			t.Run(kind+" "+ip, func(t *testing.T) { f(t, kind, ip) })
		}
	}
}

// TestAttackFewDescriptors: 300 dribblers, which come back whenever they are reset, do not shut
// honest clients out of a server with 256 descriptors.
func TestAttackFewDescriptors(t *testing.T) {
	long(t, "attacks four servers for 2 s each")
	if !alone(t) {
		return
	}
	serversUnderAttack(t, func(t *testing.T, kind, ip string) {
		const limit = 256
		s := startServer(t, kind, ip, answerSize, limit)
		stop := attack(t.Context(), 300, func(ctx context.Context) {
			for ctx.Err() == nil {
				dribble(ctx, s.address)
			}
		})
		time.Sleep(2 * dribbleEach)
		t.Logf("100 of 100 honest requests answered, the slowest after %v; %+v", s.wantHonest(t, 100), s.state(t))
		stop()
		wantNothingLeft(t, s)
	})
}

// ownGoroutines are those of a server that nobody has asked anything: main and serve.
const ownGoroutines = 2

// wantNothingLeft checks that a server keeps neither a descriptor nor a goroutine when its
// clients are gone.
func wantNothingLeft(t *testing.T, s server) {
	t.Helper()
	s.awaitState(t, "nothing left", func(now answererState) bool {
		return now.served == 0 && now.kept <= 0 && now.goroutines <= ownGoroutines
	})
}

// TestAttackWaves: waves of dribblers come one after the other, 20,000 in all with -soak. What
// Close keeps stays within an eighth of the descriptors, honest clients are served, and nothing
// is left in the end.
func TestAttackWaves(t *testing.T) {
	long(t, "attacks four servers for 4 s each")
	if !alone(t) {
		return
	}
	waves, size := 4, 300
	if *soak {
		waves, size = 20, 1000
	}
	const limit = 2048
	serversUnderAttack(t, func(t *testing.T, kind, ip string) {
		s := startServer(t, kind, ip, answerSize, limit)
		ctx, cancel := context.WithCancel(t.Context())
		most, slowest := 0, time.Duration(0)
		for range waves {
			attack(ctx, size, func(ctx context.Context) { dribble(ctx, s.address) })
			slowest = max(slowest, s.wantHonest(t, 10))
			time.Sleep(dribbleEach)
			now := s.awaitState(t, "all are answered", func(now answererState) bool { return now.served == 0 })
			most = max(most, now.kept)
		}
		t.Logf("%d dribblers, at most %d descriptors kept, the slowest honest request took %v", waves*size, most, slowest)
		if room := limit / 8; most > room || kind == "reuseport" && ip == "10.0.0.1" && most < room/2 {
			t.Errorf("%d descriptors kept, want %d at most, and about as many beyond loopback", most, room)
		}
		cancel()
		wantNothingLeft(t, s)
	})
}

// TestAttackFlood: clients that send without end after they were answered do not occupy one goroutine
// after the other. How many honest clients are served depends on the machine: the flood takes all.
func TestAttackFlood(t *testing.T) {
	long(t, "attacks two servers for 2 s each")
	if !alone(t) {
		return
	}
	for _, kind := range []string{"net", "reuseport"} {
		s := startServer(t, kind, "10.0.0.1", answerSize, 0)
		stop := attack(t.Context(), 200, func(ctx context.Context) {
			for ctx.Err() == nil {
				flood(ctx, s.address)
			}
		})
		time.Sleep(time.Second)
		honest, others := honestBesideFlood(t, s)
		t.Logf("%s: %d honest requests answered; at most %d goroutines that serve no connection", kind, honest, others)
		const enough = 4 // a sweep, and two or three that have just served
		if kind == "reuseport" && others > enough {
			t.Errorf("%d goroutines that serve no connection, want %d at most", others, enough)
		}
		stop()
		wantNothingLeft(t, s)
	}
}

// honestBesideFlood sends requests for a second. It returns how many were answered, and the
// greatest number of goroutines that did not serve connections.
func honestBesideFlood(t *testing.T, s server) (answered, others int) {
	t.Helper()
	for start := time.Now(); time.Since(start) < time.Second; time.Sleep(10 * time.Millisecond) {
		if requestWhole(s.address) == nil {
			answered++
		}
		now := s.state(t)
		others = max(others, now.goroutines-now.served-ownGoroutines)
	}
	return answered, others
}

// flood sends a request, and then without end until the server resets or ctx ends.
func flood(ctx context.Context, address string) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp4", address)
	if err != nil {
		pause(ctx, 10*time.Millisecond)
		return
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	data := pattern(64 << 10)
	for _, err = io.WriteString(c, "flood\n"); err == nil; {
		_, err = c.Write(data)
	}
}

// TestPendingCPU: what thousands of pending closes cost while nothing happens but that their peers
// dribble, or are silent with their windows shut.
func TestPendingCPU(t *testing.T) {
	long(t, "measures twice for 10 s")
	if !alone(t) {
		return
	}
	n := min(4000, roomForCloses(t))
	for what, row := range map[string]struct {
		size     int
		attacker func(ctx context.Context, address string)
	}{
		"dribblers":    {answerSize, dribble},
		"silent peers": {64 << 10, beSilent},
	} {
		t.Run(what, func(t *testing.T) {
			s := startServer(t, "reuseport", "10.0.0.1", row.size, 0)
			defer attack(t.Context(), n, func(ctx context.Context) { row.attacker(ctx, s.address) })()
			s.awaitState(t, "all pending", func(now answererState) bool { return now.served == 0 && now.kept == n })
			time.Sleep(2 * time.Second) // until they are inspected each second
			before, start := s.state(t), time.Now()
			time.Sleep(10 * time.Second)
			after := s.state(t)
			wantCheap(t, n, after.cpu-before.cpu, time.Since(start))
			if after.kept != n {
				t.Errorf("%d of %d closes are still pending", after.kept, n)
			}
		})
	}
}

// wantCheap checks that n pending closes took at most 5 % of a core. On a machine that does
// nothing else it is under 2 %, and with the race detector ten times that.
func wantCheap(t *testing.T, n int, cpu, elapsed time.Duration) {
	t.Helper()
	percent, limit := 100*float64(cpu)/float64(elapsed), 5.0
	if hasRaceDetector() {
		limit = 30
	}
	t.Logf("%d pending closes took %.2f %% of a core, %.2f us each a second", n, percent, percent*1e4/float64(n))
	if percent > limit {
		t.Errorf("%d pending closes took %.2f %% of a core, want %v at most", n, percent, limit)
	}
}

// hasRaceDetector reports whether this program was built with -race.
func hasRaceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// beSilent sends a request and reads nothing until ctx ends. Its receive buffer is small.
func beSilent(ctx context.Context, address string) {
	d := net.Dialer{Control: smallBuffer}
	c, err := d.DialContext(ctx, "tcp4", address)
	if err != nil {
		return
	}
	defer c.Close()
	if _, err := io.WriteString(c, "silent\n"); err == nil {
		<-ctx.Done()
	}
}

// A crowd is n pending closes of connections that left from a listening port. Their peers
// dribble.
type crowd struct {
	tr reuseport.Transport
	to []ma.Multiaddr // their peers, and one more
}

func newCrowd(t *testing.T, n int) *crowd {
	t.Helper()
	var w crowd
	listen(t, &w.tr, "/ip4/0.0.0.0/tcp/0")
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go acceptEach(l.Accept, func(c net.Conn) { go keepDribbling(t.Context(), c) })
	for i := range n + 1 {
		ip := netip.AddrFrom4([4]byte{127, 3, byte(i >> 8), byte(i)})
		w.to = append(w.to, tcpMultiaddr(ip, uint16(portOf(l.Addr()))))
	}
	settled(t)
	before := descriptors()
	closeAll(t, dialAll(t, &w.tr, w.to[:n]))
	await(t, "the peers have accepted, and each close keeps a descriptor", func() bool { return descriptors()-before >= 2*n })
	return &w
}

// keepDribbling sends a byte now and then, until the peer resets or ctx ends.
func keepDribbling(ctx context.Context, c net.Conn) {
	defer c.Close()
	for err := error(nil); err == nil && pause(ctx, dribbleEach); {
		_, err = c.Write([]byte("x"))
	}
}

// quantiles sorts and returns the median, the 99th percentile and the greatest.
func quantiles(took []time.Duration) (median, p99, most time.Duration) {
	slices.Sort(took)
	return took[len(took)/2], took[len(took)*99/100], took[len(took)-1]
}

// TestRedialAmongPending: among thousands of pending closes a dial frees the 4-tuple that it
// needs, and no other.
func TestRedialAmongPending(t *testing.T) {
	long(t, "closes thousands of connections")
	if !apart(t) {
		return
	}
	const redials = 100
	n := min(4000, roomForCloses(t))
	if hasRaceDetector() {
		n /= 8 // to inspect one costs ten times as much
	}
	w := newCrowd(t, n)
	var took []time.Duration
	for i := range redials {
		start := time.Now()
		c, err := w.tr.DialContext(required(t), w.to[i*n/redials])
		took = append(took, time.Since(start))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	median, p99, most := quantiles(took)
	t.Logf("redial among %d pending: median %v, p99 %v, at most %v", n, median, p99, most)
	if median > 10*time.Millisecond { // under 1 ms on a machine that does nothing else
		t.Errorf("the median redial took %v", median)
	}
}

// TestCloseWaitsForNoSweep: Close takes no longer because a thousand closes are pending.
func TestCloseWaitsForNoSweep(t *testing.T) {
	long(t, "closes thousands of connections")
	if !apart(t) {
		return
	}
	const closes = 1000
	w := newCrowd(t, min(1000, roomForCloses(t)-1))
	last := w.to[len(w.to)-1]
	address, err := manet.ToNetAddr(last)
	if err != nil {
		t.Fatal(err)
	}
	took := make(map[string]time.Duration)
	for name, dial := range map[string]func() net.Conn{
		"ours": func() net.Conn { return dialOnce(t, &w.tr, last) },
		"net":  func() net.Conn { return dialPlain(t, address.String()) },
	} {
		var all []time.Duration
		for range closes {
			c := dial()
			start := time.Now()
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			all = append(all, time.Since(start))
			time.Sleep(time.Millisecond)
		}
		median, p99, most := quantiles(all)
		t.Logf("%s: Close takes %v, p99 %v, at most %v", name, median, p99, most)
		took[name] = p99
	}
	if limit := 20 * time.Millisecond; took["ours"] > limit {
		t.Errorf("p99 of Close is %v, want %v at most", took["ours"], limit)
	}
}
