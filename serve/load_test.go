//go:build unix

package serve_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
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
	"github.com/reusetransport/reuseport/serve"
)

// roleVar makes the test binary play one side of a test as a process of its own, with
// a descriptor limit of its own.
const roleVar = "SERVE_TEST_ROLE"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(roleVar) {
	case "":
		os.Exit(m.Run())
	case "clients":
		err = clients(os.Getenv("ADDR"), 5000)
	case "starved":
		err = starved()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// child starts a process in a role, which ends when its standard input does.
func child(t *testing.T, role string, env ...string) (*exec.Cmd, io.WriteCloser, *bufio.Reader) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(append(os.Environ(), roleVar+"="+role), env...)
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
	return cmd, in, bufio.NewReader(out)
}

// clients makes n connections at once. Each must be served.
func clients(addr string, n int) error {
	errs := make(chan error, n)
	for range n {
		go func() { errs <- client(addr) }()
	}
	var err error
	for range n {
		err = errors.Join(err, <-errs)
	}
	return err
}

func client(addr string) error {
	c, err := net.DialTimeout("tcp4", addr, time.Minute)
	if err != nil {
		return err
	}
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return errors.Join(err, c.Close())
}

// census is a handler that counts its running calls. They all wait until full of them
// run at once.
type census struct {
	full    int
	now     atomic.Int32
	most    atomic.Int32 // most ever in now
	served  atomic.Int32
	barrier chan struct{}
	once    sync.Once
	memory  atomic.Uint64 // most ever used
	atFull  uint64        // memory used at that moment
}

func (c *census) serve(nc net.Conn) (serve.Handler, error) {
	n := c.now.Add(1)
	defer c.now.Add(-1)
	for most := c.most.Load(); n > most && !c.most.CompareAndSwap(most, n); most = c.most.Load() {
	}
	if int(n) == c.full {
		c.once.Do(func() { c.atFull = memory(); close(c.barrier) })
	}
	<-c.barrier
	var b [1]byte
	if _, err := io.ReadFull(nc, b[:]); err != nil {
		return nil, err
	}
	if c.served.Add(1)%500 == 0 {
		c.memory.Store(max(c.memory.Load(), memory()))
	}
	_, err := nc.Write(b[:])
	return nil, err
}

// memory returns how much the process uses for connections: heap and stacks.
func memory() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// With 5,000 clients at once and 1,000 slots, at most 1,000 are active, all are
// served, and memory does not grow beyond what the first thousand took.
func TestLimit(t *testing.T) {
	c := &census{full: 1000, barrier: make(chan struct{})}
	s := &serve.Server{Handler: c.serve, MaxConns: 1000}
	l := running(t, s)
	before := memory()
	cmd, _, _ := child(t, "clients", "ADDR="+l.Addr().String())
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if most := c.most.Load(); most != 1000 || c.served.Load() != 5000 {
		t.Errorf("at most %d active, %d served; want 1000 and 5000", most, c.served.Load())
	}
	if full, most := c.atFull-before, c.memory.Load()-before; most > full+full/2 {
		t.Errorf("%d bytes with 1000 active, %d later", full, most)
	}
	if st := s.Stats(); st.Accepted != 5000 || st.LimitWaits == 0 || st.HandlerErrors > 0 {
		t.Errorf("%+v", st)
	}
}

// counted counts the calls of Accept.
type counted struct {
	net.Listener
	n atomic.Int32
}

func (l *counted) Accept() (net.Conn, error) {
	l.n.Add(1)
	return l.Listener.Accept()
}

// starved is a server that runs out of descriptors. It prints its address. When told
// to, it counts the accepts of a second and then lets its handlers end.
func starved() error {
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	release, in := make(chan struct{}), bufio.NewReader(os.Stdin)
	s := &serve.Server{Handler: func(c net.Conn) (serve.Handler, error) {
		<-release
		return nil, serveOne(c)
	}}
	l := &counted{Listener: tcp}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 60, Max: 60}); err != nil {
		return err
	}
	fmt.Println(tcp.Addr())
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	tried := l.n.Load()
	time.Sleep(time.Second)
	fmt.Println(l.n.Load()-tried, s.Stats().Active)
	close(release)
	_, err = in.ReadString('\n') // until the parent is done
	return errors.Join(ignoreEOF(err), s.Close(), <-ended)
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func serveOne(c net.Conn) error {
	var b [1]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return err
	}
	_, err := c.Write(b[:])
	return err
}

// When RLIMIT_NOFILE is reached, accept is tried ten times a second. Once descriptors
// are available again, every connection in the kernel's queue is served.
func TestStarved(t *testing.T) {
	_, in, out := child(t, "starved")
	addr, err := out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]net.Conn, 300)
	for i := range conns {
		if conns[i], err = net.Dial("tcp4", strings.TrimSpace(addr)); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conns[i].Close() }() // the server closes first
		if _, err := conns[i].Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	tried, active := starvedSecond(t, in, out)
	if tried < 2 || tried > 20 || active >= len(conns) || active == 0 {
		t.Errorf("%d accepts tried in a second, %d active", tried, active)
	}
	for i, c := range conns {
		if err := errors.Join(c.SetDeadline(time.Now().Add(patience)), readOne(c)); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
}

func readOne(c net.Conn) error {
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

func starvedSecond(t *testing.T, in io.Writer, out *bufio.Reader) (tried, active int) {
	t.Helper()
	if _, err := io.WriteString(in, "count\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fscan(out, &tried, &active); err != nil {
		t.Fatal(err)
	}
	return tried, active
}

// busy starts 500 handlers that run until their clients write.
func busy(t *testing.T, s *serve.Server, l net.Listener) []*net.TCPConn {
	t.Helper()
	conns := make([]*net.TCPConn, 500)
	for i := range conns {
		conns[i] = dial(t, l)
	}
	eventually(t, "500 are active", func() bool { return s.Stats().Active == 500 })
	return conns
}

func oneByte(c net.Conn) (serve.Handler, error) { return nil, serveOne(c) }

func TestShutdownWaitsFor500(t *testing.T) {
	s := &serve.Server{Handler: oneByte}
	l := running(t, s)
	conns := busy(t, s, l)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		shutdown(t, s)
	}()
	eventually(t, "new connections are refused", func() bool { return refuses(t, l) })
	for _, c := range conns {
		select {
		case <-ended:
			t.Fatal("Shutdown did not wait")
		default:
		}
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := readOne(c); err != nil {
			t.Fatal(err)
		}
		wantEOF(t, c)
	}
	<-ended
	if st := s.Stats(); st.HandlerErrors != 0 || st.Active != 0 {
		t.Errorf("%+v", st)
	}
}

// refuses reports whether a dial is refused. A dial that still got into the accept
// queue is reset when the listener closes.
func refuses(t *testing.T, l net.Listener) bool {
	c, err := net.Dial("tcp4", l.Addr().String())
	if err == nil {
		_, _ = c.Write([]byte("x")) // it was accepted, or will be reset
		_ = readOne(c)              // as above
		_ = c.Close()
		return false
	}
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("dial: %v, want ECONNREFUSED", err)
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

func TestCloseCuts500(t *testing.T) {
	s := &serve.Server{Handler: oneByte}
	conns := busy(t, s, running(t, s))
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for _, c := range conns {
		wantEOF(t, c)
	}
	shutdown(t, s)
	if st := s.Stats(); st.HandlerErrors != 500 || st.Active != 0 {
		t.Errorf("%+v", st)
	}
}

// A connection with an Abort method is aborted: its peer reads ECONNRESET.
func TestCloseAborts(t *testing.T) {
	var tr reuseport.Transport
	ml, err := tr.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		t.Fatal(err)
	}
	s := &serve.Server{Handler: oneByte}
	l := manet.NetListener(ml)
	wait := begin(s, l)
	conns := busy(t, s, l)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for _, c := range conns {
		if err := readOne(c); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("%v, want ECONNRESET", err)
		}
	}
	shutdown(t, s)
	if err := wait(); !errors.Is(err, serve.ErrServerClosed) {
		t.Error(err)
	}
}
