//go:build !plan9

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
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
)

// This file has the helpers that more than one test file uses. What only Linux can do is in
// setup_linux_test.go, and setup_other_test.go stands in for it elsewhere. A helper that one
// file uses is in that file. A test is in the file named for the code that it tests, or for
// its scenario.

// patience is how long a test waits for what has to happen.
const patience = 10 * time.Second

// skip skips a test that this machine cannot run. In CI that is a failure.
func skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("CI must not skip: "+format, args...)
	}
	t.Skipf(format, args...)
}

// linuxOnly skips a test of what only Linux does, in CI too.
func linuxOnly(t testing.TB) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("pins the behaviour of Linux")
	}
}

// long skips a test that takes long, with -short.
func long(t testing.TB, why string) {
	t.Helper()
	if testing.Short() {
		t.Skip("long: " + why)
	}
}

// rounds is how often a test repeats what it does: less often with -short.
func rounds(full, short int) int {
	if testing.Short() {
		return short
	}
	return full
}

// ownIP returns a loopback address that no other process of these tests uses, so that a
// fixed port on it is free.
func ownIP() netip.Addr {
	if runtime.GOOS != "linux" {
		return localhost
	}
	pid := os.Getpid()
	return netip.AddrFrom4([4]byte{127, byte(pid>>16)&63 + 64, byte(pid >> 8), byte(pid)})
}

var localhost = netip.MustParseAddr("127.0.0.1")

var nextPort atomic.Uint32

// ownPort returns a port below the ephemeral range that this process has not used yet. Other
// runs of the tests at the same time begin elsewhere, since some tests listen on the port of
// all addresses.
func ownPort() uint16 { return uint16(20000 + (uint32(os.Getpid())*1000+nextPort.Add(1))%10000) }

func tcpMultiaddr(ip netip.Addr, port uint16) ma.Multiaddr {
	m, err := manet.FromNetAddr(net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, port)))
	if err != nil {
		panic(err)
	}
	return m
}

func parse(t testing.TB, s string) ma.Multiaddr {
	t.Helper()
	m, err := ma.NewMultiaddr(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func portOf(a net.Addr) int { return a.(*net.TCPAddr).Port }

// listen listens on s, a multiaddr, until the test ends.
func listen(t testing.TB, tr *reuseport.Transport, s string) manet.Listener {
	t.Helper()
	l, err := tr.Listen(parse(t, s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// listenPort is listen with ListenPort(0).
func listenPort(t testing.TB, tr *reuseport.Transport) manet.Listener {
	t.Helper()
	l, err := tr.ListenPort(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// dial dials and closes the connection when the test ends.
func dial(t testing.TB, tr *reuseport.Transport, raddr ma.Multiaddr) *reuseport.Conn {
	t.Helper()
	c := dialOnce(t, tr, raddr)
	t.Cleanup(func() { c.Close() })
	return c
}

// dialOnce is dial for tests that close the connection themselves.
func dialOnce(t testing.TB, tr *reuseport.Transport, raddr ma.Multiaddr) *reuseport.Conn {
	t.Helper()
	c, err := tr.Dial(raddr)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*reuseport.Conn)
}

// openTCP returns a listener on loopback that package net made.
func openTCP(t testing.TB) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(localhost, 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// dialPlain dials with package net alone, not by Multipath TCP, and closes the connection when
// the test ends.
func dialPlain(t testing.TB, address string) net.Conn {
	t.Helper()
	var d net.Dialer
	d.SetMultipathTCP(false)
	c, err := d.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// accept accepts a connection and closes it when the test ends. If none comes it closes the
// listener, which fails the test.
func accept(t testing.TB, l manet.Listener) *reuseport.Conn {
	t.Helper()
	overdue := time.AfterFunc(patience, func() { l.Close() })
	defer overdue.Stop()
	c, err := l.Accept()
	if err != nil {
		t.Fatal("nothing to accept: ", err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*reuseport.Conn)
}

// acceptEach calls handle with each connection until accept fails.
func acceptEach[C net.Conn](accept func() (C, error), handle func(C)) {
	for {
		c, err := accept()
		if err != nil {
			return
		}
		handle(c)
	}
}

// countAccepts counts what l accepts and keeps it until the peer's end.
func countAccepts(l manet.Listener, n *atomic.Int32) {
	acceptEach(l.Accept, func(c manet.Conn) {
		n.Add(1)
		go discard(c)
	})
}

// acceptAll accepts on l until it closes. What it gets arrives in the channel.
func acceptAll(l manet.Listener) <-chan manet.Conn {
	got := make(chan manet.Conn, 1000)
	go func() {
		defer close(got)
		acceptEach(l.Accept, func(c manet.Conn) { got <- c })
	}()
	return got
}

// discard reads until the peer's end and closes.
func discard(c net.Conn) {
	io.Copy(io.Discard, c)
	c.Close()
}

// peer listens with package net alone and keeps what it accepts until the peer's end.
func peer(t testing.TB, address string) ma.Multiaddr {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go acceptEach(l.Accept, func(c net.Conn) { go discard(c) })
	m, err := manet.FromNetAddr(l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// abort resets connections, so that their 4-tuples are free at once.
func abort(t testing.TB, conns ...*reuseport.Conn) {
	t.Helper()
	for _, c := range conns {
		if err := c.Abort(); err != nil {
			t.Error(err)
		}
	}
}

// attempts counts the sockets that a Transport makes. Each is one connect, one SYN.
func attempts(n *atomic.Int32) func(string, string, syscall.RawConn) error {
	return func(string, string, syscall.RawConn) error { n.Add(1); return nil }
}

// wantErr checks errors.Is for each of wants.
func wantErr(t testing.TB, err error, wants ...error) {
	t.Helper()
	for _, want := range wants {
		if !errors.Is(err, want) {
			t.Errorf("error %v, want one that is %v", err, want)
		}
	}
}

// shortly returns a context that ends after d.
func shortly(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// required returns the context of a dial that fails where it cannot reuse a port.
func required(t testing.TB) context.Context {
	return reuseport.WithPortUse(t.Context(), reuseport.RequireReuse)
}

// await waits until is reports true. It reports false, and fails the test, if that takes
// longer than patience.
func await(t testing.TB, what string, is func() bool) bool {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("after %v still not: %s", patience, what)
			return false
		}
	}
	return true
}

// awaitAtMost waits until count returns limit or less.
func awaitAtMost(t testing.TB, what string, limit int, count func() int) {
	t.Helper()
	if !await(t, fmt.Sprintf("at most %d %s", limit, what), func() bool { return count() <= limit }) {
		t.Errorf("%d %s, want at most %d", count(), what, limit)
	}
}

// settled waits until the goroutines and the descriptors of earlier tests are gone: until their
// numbers have been the same for 50 ms. The sockets that forgotten Transports ask for sources
// with are closed by the garbage collector.
func settled(t testing.TB) {
	t.Helper()
	for lastGoroutines, last := -1, -1; lastGoroutines != runtime.NumGoroutine() || last != descriptors(); time.Sleep(50 * time.Millisecond) {
		lastGoroutines, last = runtime.NumGoroutine(), descriptors()
		runtime.GC()
	}
}

// descriptors returns the number of open descriptors, or 0 where /proc does not tell.
func descriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}

// pattern returns n bytes that do not repeat at powers of two.
func pattern(n int) []byte {
	return bytes.Repeat([]byte("0123456789A"), n/11+1)[:n]
}

// A closePair is a connection between two Transports on loopback. The dialed end leaves from
// a listening port.
type closePair struct {
	dialer, acceptor reuseport.Transport
	listener         manet.Listener
	target           ma.Multiaddr

	dialed, accepted *reuseport.Conn
}

// newClosePair connects once. Both Transports get flushTimeout.
func newClosePair(t testing.TB, flushTimeout time.Duration) *closePair {
	t.Helper()
	p := &closePair{}
	p.dialer.FlushTimeout, p.acceptor.FlushTimeout = flushTimeout, flushTimeout
	p.open(t)
	return p
}

// open listens on both sides and connects once.
func (p *closePair) open(t testing.TB) {
	t.Helper()
	listen(t, &p.dialer, "/ip4/127.0.0.1/tcp/0")
	p.listener = listen(t, &p.acceptor, "/ip4/127.0.0.1/tcp/0")
	p.target = p.listener.Multiaddr()
	p.connect(t)
}

// connect dials and accepts once more.
func (p *closePair) connect(t testing.TB) {
	t.Helper()
	p.dialed = dial(t, &p.dialer, p.target)
	p.accepted = accept(t, p.listener)
}

// redial dials with RequireReuse and resets what it gets.
func (p *closePair) redial(t testing.TB) {
	t.Helper()
	c, err := p.dialer.DialContext(required(t), p.target)
	if err != nil {
		t.Fatal("redial: ", err)
	}
	accept(t, p.listener).Abort() // fails if the reset was first
	c.(*reuseport.Conn).Abort()
}

// awaitCloses waits until tr has no pending close. Some take long by design.
func awaitCloses(t testing.TB, tr *reuseport.Transport) {
	t.Helper()
	ctx := shortly(t, 60*time.Second)
	for tr.Stats().ClosesPending > 0 {
		if ctx.Err() != nil {
			t.Fatalf("closes still pending: %+v", tr.Stats())
		}
		time.Sleep(time.Millisecond)
	}
}

// wantDelivered checks that no close of tr was given up.
func wantDelivered(t testing.TB, tr *reuseport.Transport) {
	t.Helper()
	awaitCloses(t, tr)
	if s := tr.Stats(); s.ClosesAborted+s.ClosesReset+s.BytesUndelivered != 0 {
		t.Errorf("not delivered: %d aborted, %d reset, %d bytes", s.ClosesAborted, s.ClosesReset, s.BytesUndelivered)
	}
}

// wantDataThenEOF reads from c until EOF and compares.
func wantDataThenEOF(t testing.TB, c io.Reader, want []byte) {
	t.Helper()
	got, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("after %d of %d bytes: %v, want EOF", len(got), len(want), err)
	} else if !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes, or other ones", len(got), len(want))
	}
}

// slowly returns a reader of r that takes at least d for n bytes.
func slowly(r io.Reader, n int, d time.Duration) io.Reader {
	part := max(1, n/20)
	return bufio.NewReaderSize(readFunc(func(b []byte) (int, error) {
		time.Sleep(d / 20)
		return io.ReadFull(r, b[:min(len(b), part)])
	}), part) // or the first reads of io.ReadAll would be small, and many
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(b []byte) (int, error) {
	n, err := f(b)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

// writeThenClose writes data and closes at once, without waiting for the peer.
func writeThenClose(t testing.TB, c net.Conn, data []byte) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if n, err := c.Write(data); err != nil {
			t.Errorf("wrote %d of %d bytes: %v", n, len(data), err)
		}
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	return done
}

// bufferAll writes up to size bytes while nobody reads. It stops when nothing has gone out for
// 100 ms, and returns how much has.
func bufferAll(t testing.TB, c net.Conn, size int) (written int) {
	t.Helper()
	data := pattern(size)
	for n := 1; n > 0 && len(data) > 0; data = data[n:] {
		if err := c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		var err error
		if n, err = c.Write(data); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	return size - len(data)
}

// wantAllClosed checks that each method of a closed connection returns net.ErrClosed.
func wantAllClosed(t testing.TB, c *reuseport.Conn) {
	t.Helper()
	_, read := c.Read(make([]byte, 1))
	_, write := c.Write([]byte("x"))
	_, from := c.ReadFrom(bytes.NewReader([]byte("x")))
	_, file := c.File()
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(uintptr) { t.Error("Control reached a closed descriptor") })
	}
	for what, err := range map[string]error{
		"Read": read, "Write": write, "ReadFrom": from, "File": file, "SyscallConn": err, "Close": c.Close(),
		"Abort": c.Abort(), "CloseRead": c.CloseRead(), "CloseWrite": c.CloseWrite(), "SetLinger": c.SetLinger(0),
		"SetDeadline": c.SetDeadline(time.Time{}), "SetNoDelay": c.SetNoDelay(true),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
	if c.LocalAddr() == nil || c.RemoteMultiaddr() == nil {
		t.Error("addresses are gone")
	}
}

// A puncher is a Transport with one listener on loopback. While start is set its next dial
// waits there.
type puncher struct {
	*reuseport.Transport
	l     manet.Listener
	start atomic.Pointer[sync.WaitGroup]
}

func newPuncher(t testing.TB) *puncher {
	t.Helper()
	p := &puncher{}
	p.Transport = &reuseport.Transport{Control: p.control}
	p.l = listen(t, p.Transport, "/ip4/127.0.0.1/tcp/0")
	t.Cleanup(func() {
		if err := p.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return p
}

// control delays the first dial of a punch until the other side has begun its own.
func (p *puncher) control(string, string, syscall.RawConn) error {
	if start := p.start.Swap(nil); start != nil {
		start.Done()
		start.Wait()
	}
	return nil
}

// punch punches towards q within 5 s.
func (p *puncher) punch(q *puncher) (*reuseport.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return p.Punch(ctx, q.l.Multiaddr())
}

func mustPunch(t testing.TB, p, q *puncher) *reuseport.Conn {
	t.Helper()
	c, err := p.punch(q)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// wantJoined checks that a and b are the two ends of one connection.
func wantJoined(t testing.TB, a, b net.Conn) {
	t.Helper()
	if a.LocalAddr().String() != b.RemoteAddr().String() || a.RemoteAddr().String() != b.LocalAddr().String() {
		t.Fatalf("%v-%v and %v-%v are not one connection", a.LocalAddr(), a.RemoteAddr(), b.LocalAddr(), b.RemoteAddr())
	}
	if _, err := a.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(b, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// A role is what this test binary does as a child process. It ends when its standard input
// does.
type role func(args []string) error

// roles are those of every system. linuxRoles has those of Linux alone.
var roles = map[string]role{
	"listen": childListen,
	"close":  childClose,
}

const roleVariable = "REUSEPORT_TEST_ROLE"

func TestMain(m *testing.M) {
	name := os.Getenv(roleVariable)
	if name == "" {
		net.DefaultResolver = testResolver()
		os.Exit(m.Run())
	}
	run := roles[name]
	if run == nil {
		run = linuxRoles[name]
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
}

// A child is a process that answers each line on its standard input with a line.
type child struct {
	in  io.WriteCloser
	out *bufio.Reader
}

// startChild starts this test binary in a role.
func startChild(t testing.TB, role string, args ...string) *child {
	t.Helper()
	return startCommand(t, role, exec.Command(os.Args[0], args...))
}

// childEnv returns the environment of a child. With -race a process would wait 1 s at its end.
func childEnv(role string) []string {
	return append(os.Environ(), roleVariable+"="+role, "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
}

// startCommand is startChild for a command that may ask for what this machine refuses.
func startCommand(t testing.TB, role string, cmd *exec.Cmd) *child {
	t.Helper()
	cmd.Env = childEnv(role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); errors.Is(err, os.ErrPermission) {
		skip(t, "no child of this kind may start: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	return &child{in: in, out: bufio.NewReader(out)}
}

func (c *child) send(t testing.TB, line string) {
	t.Helper()
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		t.Fatal(err)
	}
}

func (c *child) receive(t testing.TB) string {
	t.Helper()
	line, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatal("child: ", err)
	}
	return strings.TrimSpace(line)
}

func (c *child) ask(t testing.TB, line string) string {
	t.Helper()
	c.send(t, line)
	return c.receive(t)
}
