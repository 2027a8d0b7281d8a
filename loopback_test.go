//go:build !plan9

package reuseport_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
)

// What the tests on loopback share: addresses, peers and child processes.

// skip skips for what the machine refuses; in CI that is a failure.
func skip(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("CI must not skip: "+format, args...)
	}
	t.Skipf(format, args...)
}

// linuxOnly skips what rests on the behaviour of Linux, in CI too.
func linuxOnly(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("pins the behaviour of Linux")
	}
}

// ownIP is a loopback address of this process alone, so that a fixed port on it
// is no other's.
func ownIP() netip.Addr {
	if runtime.GOOS != "linux" {
		return netip.MustParseAddr("127.0.0.1")
	}
	pid := os.Getpid()
	return netip.AddrFrom4([4]byte{127, byte(pid>>16)&63 + 64, byte(pid >> 8), byte(pid)})
}

var nextPort atomic.Uint32

// ownPort is a port below the ephemeral range that this process has not used yet.
func ownPort() uint16 { return uint16(20000 + nextPort.Add(1)%10000) }

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

func listen(t testing.TB, tr *reuseport.Transport, s string) manet.Listener {
	t.Helper()
	l, err := tr.Listen(parse(t, s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func dial(t testing.TB, tr *reuseport.Transport, raddr ma.Multiaddr) *reuseport.Conn {
	t.Helper()
	c, err := tr.Dial(raddr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*reuseport.Conn)
}

func accept(t testing.TB, l manet.Listener) *reuseport.Conn {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*reuseport.Conn)
}

func portOf(a net.Addr) int { return a.(*net.TCPAddr).Port }

// peer is a plain listener that holds what it accepts until its peer is gone.
func peer(t testing.TB, address string) ma.Multiaddr {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(io.Discard, c); c.Close() }()
		}
	}()
	m, err := manet.FromNetAddr(l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// attempts counts sockets made by a Transport: each is one connect, one SYN.
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

func shortly(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// roles are what a child process, this test binary again, can be.
var roles = map[string]func(args []string) error{
	"listen":  childListen,
	"sink":    childSink,
	"dials":   childDials,
	"inherit": childInherit,
	"close":   childClose,
}

const roleVariable = "REUSEPORT_TEST_ROLE"

func TestMain(m *testing.M) {
	role := os.Getenv(roleVariable)
	if role == "" {
		net.DefaultResolver = testResolver()
		os.Exit(m.Run())
	}
	if err := roles[role](os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, role+":", err)
		os.Exit(1)
	}
}

// child is a process that answers each line on its standard input with a line. It
// ends when its input does.
type child struct {
	in  io.WriteCloser
	out *bufio.Reader
}

func startChild(t testing.TB, role string, args ...string) *child {
	t.Helper()
	return startChildWith(t, nil, role, args...)
}

// startChildWith gives the child a descriptor, its number 3.
func startChildWith(t testing.TB, inherited *os.File, role string, args ...string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	if inherited != nil {
		cmd.ExtraFiles = []*os.File{inherited}
	}
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
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

// childListen listens on each address it reads, exclusively, or shared if its
// argument says so, and counts connections until the next line.
func childListen(args []string) error {
	var tr reuseport.Transport
	tr.Shared = len(args) > 0 && args[0] == "shared"
	var last manet.Listener
	var accepted atomic.Int32
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if last != nil {
			last.Close()
		}
		last = nil
		if lines.Text() == "count" {
			fmt.Println(accepted.Load())
			continue
		}
		l, err := tr.Listen(ma.StringCast(lines.Text()))
		switch {
		case err == nil:
			last = l
			go countAccepts(l, &accepted)
			fmt.Println("listening")
		case errors.Is(err, syscall.EADDRINUSE):
			fmt.Println("in use")
		default:
			fmt.Println(err)
		}
	}
	return lines.Err()
}

func countAccepts(l manet.Listener, n *atomic.Int32) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		n.Add(1)
		go func() { io.Copy(io.Discard, c); c.Close() }()
	}
}

// childSink listens on a free port of all IPv4 addresses, tells it, and keeps
// whatever connects until its input ends.
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

// childDials dials the port that is its first argument as often as its second says,
// each time another address.
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

// childInherit wraps the listener that it inherited, dials its argument, says
// from where, and accepts one connection. With "nobody" it first gives up root.
func childInherit(args []string) error {
	if len(args) > 1 {
		if err := setUser(65534); err != nil {
			return err
		}
	}
	nl, err := net.FileListener(os.NewFile(3, "inherited"))
	if err != nil {
		return err
	}
	var tr reuseport.Transport
	l, err := tr.WrapListener(nl.(*net.TCPListener))
	if err != nil {
		return err
	}
	c, err := tr.Dial(ma.StringCast(args[0]))
	if err != nil {
		return err
	}
	if rc := c.(*reuseport.Conn); rc.Reused() {
		fmt.Println("reused from", c.LocalAddr())
	} else {
		fmt.Println("not reused:", rc.Cause())
		return nil
	}
	in, err := l.Accept()
	if err != nil {
		return err
	}
	zero, err := lingersZero(in.(*reuseport.Conn))
	fmt.Println("accepted, linger", zero)
	io.Copy(io.Discard, os.Stdin) // hold the connection until the parent is done
	return errors.Join(err, in.Close(), c.Close(), l.Close())
}
