package reuseport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
)

// stuckPeer listens on 127/8 and reads nothing. Its receive buffer is small, so
// that 64 kB do not go through.
func stuckPeer(t testing.TB) (*net.TCPListener, uint16) {
	t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
	}}
	l, err := lc.Listen(t.Context(), "tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener), uint16(portOf(l.Addr()))
}

// closeStuck closes n connections to a peer that does not read, each with data
// outstanding, and returns the peer's ends.
func closeStuck(t testing.TB, tr *reuseport.Transport, l *net.TCPListener, port uint16, n int) []net.Conn {
	t.Helper()
	ends := make([]net.Conn, n)
	for i := range n {
		ip := netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)})
		c := dialOnce(t, tr, tcpMultiaddr(ip, port))
		var err error
		if ends[i], err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(pattern(64 << 10)); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return ends
}

func resetAll(t testing.TB, conns []net.Conn) {
	t.Helper()
	for _, c := range conns {
		if err := errors.Join(c.(*net.TCPConn).SetLinger(0), c.Close()); err != nil {
			t.Error(err)
		}
	}
}

// TestCloseStuckLeavesNothing closes 10,000 connections, in waves, to a peer that
// stops reading: each is cut at FlushTimeout and counted, and nothing stays behind.
func TestCloseStuckLeavesNothing(t *testing.T) {
	const waves, wave = 5, 2000
	tr := reuseport.Transport{FlushTimeout: 300 * time.Millisecond}
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	l, port := stuckPeer(t)
	settled(t)
	fds, goroutines := descriptors(t), runtime.NumGoroutine()
	for range waves {
		ends := closeStuck(t, &tr, l, port, wave)
		awaitCloses(t, &tr)
		resetAll(t, ends)
	}
	s := tr.Stats()
	if s.ClosesAborted != waves*wave || s.ClosesReset != 0 || s.BytesUndelivered == 0 {
		t.Errorf("%d aborted, %d reset, %d bytes", s.ClosesAborted, s.ClosesReset, s.BytesUndelivered)
	}
	awaitAtMost(t, "descriptors", fds, func() int { return descriptors(t) })
	awaitAtMost(t, "goroutines", goroutines, runtime.NumGoroutine)
}

// TestClosePendingBound closes more than may be pending: the oldest are aborted.
func TestClosePendingBound(t *testing.T) {
	const bound, more = 4096, 50
	tr := reuseport.Transport{FlushTimeout: time.Minute}
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	l, port := stuckPeer(t)
	before := runtime.NumGoroutine()
	ends := closeStuck(t, &tr, l, port, bound+more)
	if s := tr.Stats(); s.ClosesPending != bound || s.ClosesAborted != more {
		t.Errorf("%d pending, %d aborted", s.ClosesPending, s.ClosesAborted)
	}
	if n := runtime.NumGoroutine(); n > before+1 {
		t.Errorf("%d goroutines for %d pending closes", n-before, bound)
	}
	for _, c := range ends[:more] { // the oldest
		if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("the peer of an aborted close read %v", err)
		}
	}
	resetAll(t, ends[more:2*more]) // the oldest now
	defer resetAll(t, closeStuck(t, &tr, l, port, more))
	if s := tr.Stats(); s.ClosesAborted != more {
		t.Errorf("%d aborted, with those whose peer had reset", s.ClosesAborted)
	}
	resetAll(t, ends[2*more:])
	for i := 0; i < 500 && tr.Stats().ClosesPending > more; i++ {
		time.Sleep(20 * time.Millisecond)
	}
	if s := tr.Stats(); s.ClosesReset != bound {
		t.Errorf("%d of %d counted as reset by the peer", s.ClosesReset, bound)
	}
}

// TestCloseAtDescriptorLimit closes while no descriptor is to be had: it delivers
// all the same, and the methods of the connection say net.ErrClosed meanwhile.
func TestCloseAtDescriptorLimit(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	p := newClosePair(t, 0)
	settled(t)
	goroutines := runtime.NumGoroutine()
	bufferAll(t, p.dialed, 32<<20)
	p.dialed.SetDeadline(time.Time{})
	read := make(chan error, 1)
	go func() { _, err := p.dialed.Read(make([]byte, 1)); read <- err }()
	closeWithoutDescriptors(t, p.dialed, limit)
	wantErr(t, <-read, net.ErrClosed)
	wantAllClosed(t, p.dialed)
	if n := p.dialer.Stats().ClosesPending; n != 1 {
		t.Errorf("%d pending", n)
	}
	if n, err := io.Copy(io.Discard, p.accepted); err != nil || n < 100_000 {
		t.Errorf("%d bytes, then %v", n, err)
	}
	if err := p.accepted.Close(); err != nil {
		t.Error(err)
	}
	wantDelivered(t, &p.dialer)
	awaitAtMost(t, "goroutines", goroutines, runtime.NumGoroutine)
}

func closeWithoutDescriptors(t *testing.T, c *reuseport.Conn, limit unix.Rlimit) {
	t.Helper()
	low := limit
	low.Cur = uint64(lowestFree(t))
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	if _, err := unix.Dup(0); !errors.Is(err, unix.EMFILE) {
		t.Fatal("there are descriptors: ", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// TestFinCounts pins that SIOCOUTQ counts a FIN that is not acknowledged as one
// byte, and nothing once it is.
func TestFinCounts(t *testing.T) {
	l, port := stuckPeer(t)
	c, err := net.Dial("tcp4", fmt.Sprint("127.0.0.1:", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	end, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	before := outq(t, c)
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	after := outq(t, c)
	if err := end.Close(); err != nil { // its FIN acknowledges ours
		t.Fatal(err)
	}
	if _, err := io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	if n := outq(t, c); before != 0 || after != 1 || n != 0 {
		t.Errorf("before the FIN %d, after it %d, acknowledged %d", before, after, n)
	}
}

func outq(t testing.TB, c net.Conn) int {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	var call error
	err = raw.Control(func(fd uintptr) { n, call = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	if err := errors.Join(err, call); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestShutdownWaits returns when the pending closes are delivered, and tells what
// did not make it.
func TestShutdownWaits(t *testing.T) {
	p := newClosePair(t, 0)
	bufferAll(t, p.dialed, 32<<20)
	if err := p.dialed.Close(); err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := p.dialer.Shutdown(soon)
	var undelivered *reuseport.UndeliveredError
	if !errors.As(err, &undelivered) || undelivered.Conns != 1 || undelivered.Bytes < 100_000 {
		t.Errorf("Shutdown with a pending close: %v", err)
	}
	wantErr(t, err, context.DeadlineExceeded)
	go func() {
		io.Copy(io.Discard, p.accepted)
		p.accepted.Close()
	}()
	if err := p.dialer.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown after delivery: %v", err)
	}
	wantDelivered(t, &p.dialer)
}

// TestShutdownTellsWhatWasCut: a close that is cut while Shutdown waits is in its
// error.
func TestShutdownTellsWhatWasCut(t *testing.T) {
	p := newClosePair(t, 200*time.Millisecond)
	bufferAll(t, p.dialed, 32<<20)
	if err := p.dialed.Close(); err != nil {
		t.Fatal(err)
	}
	err := p.dialer.Shutdown(t.Context())
	var undelivered *reuseport.UndeliveredError
	if !errors.As(err, &undelivered) || undelivered.Conns != 1 || undelivered.Bytes < 100_000 {
		t.Errorf("Shutdown: %v", err)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		t.Error("the context had not ended: ", err)
	}
}

// TestCloseDiscardBound: of a peer that sends without end so much is discarded and
// no more, and the close ends.
func TestCloseDiscardBound(t *testing.T) {
	p := newClosePair(t, 2*time.Second)
	sent := make(chan int64)
	go func() {
		var n int64
		for {
			m, err := p.accepted.Write(pattern(1 << 20))
			if n += int64(m); err != nil {
				sent <- n
				return
			}
		}
	}()
	time.Sleep(100 * time.Millisecond) // until there is something unread
	if err := p.dialed.Close(); err != nil {
		t.Fatal(err)
	}
	if n := <-sent; n < 256<<20 || n > 300<<20 {
		t.Errorf("the peer sent %d MiB", n>>20)
	}
	wantDelivered(t, &p.dialer)
}

// TestSoakCycles dials, writes and closes 100,000 times (2,000 without -soak); the
// other side reads every byte and EOF.
func TestSoakCycles(t *testing.T) {
	cycles := 2000
	if *soak {
		cycles = 100_000
	}
	var us, them reuseport.Transport
	listen(t, &us, "/ip4/127.0.0.1/tcp/0")
	l, err := them.ListenPort(0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var bytes, ends atomic.Int64
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				n, err := io.Copy(io.Discard, c)
				if bytes.Add(n); err != nil {
					t.Errorf("after %d bytes: %v", n, err)
				}
				c.Close()
				ends.Add(1)
			}()
		}
	}()
	want := cycleAll(t, &us, uint16(portOf(l.Addr())), cycles)
	wantDelivered(t, &us)
	for range 1000 {
		if ends.Load() == int64(cycles) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if s := us.Stats(); bytes.Load() != want || ends.Load() != int64(cycles) {
		t.Errorf("%d of %d bytes, %d of %d connections; %+v", bytes.Load(), want, ends.Load(), cycles, s)
	}
	t.Logf("%d reused, %d not: %v", us.Stats().DialsReused, us.Stats().DialsNew, us.Stats().NewByCause)
}

// cycleAll dials 127/8 in turn from 8 goroutines and returns how many bytes they
// wrote.
func cycleAll(t *testing.T, tr *reuseport.Transport, port uint16, cycles int) int64 {
	var next, wrote atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := next.Add(1); i <= int64(cycles); i = next.Add(1) {
				ip := netip.AddrFrom4([4]byte{127, 2, byte(i >> 8), byte(i)})
				c, err := tr.Dial(tcpMultiaddr(ip, port))
				if err != nil {
					t.Error(err)
					return
				}
				n, err := c.Write(pattern(int(i*7919) % 50_000))
				wrote.Add(int64(n))
				if err := errors.Join(err, c.Close()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	return wrote.Load()
}

// TestSoakSlowReader: a peer that needs 20 s and keeps reading gets everything,
// though FlushTimeout is 5 s.
func TestSoakSlowReader(t *testing.T) {
	if !*soak {
		t.Skip("takes 20 s: -soak")
	}
	p := newClosePair(t, 0)
	data := pattern(4_000_000)
	done := writeThenClose(t, p.dialed, data)
	start := time.Now()
	wantDataThenEOF(t, slowly(p.accepted, len(data), 20*time.Second), data)
	<-done
	wantDelivered(t, &p.dialer)
	t.Logf("read for %v", time.Since(start))
}

// shutWindow connects tr to a peer that reads nothing and writes exactly as much as
// the peer's window takes: all is acknowledged, and not even a FIN may leave.
func shutWindow(t *testing.T, tr *reuseport.Transport) (c *reuseport.Conn, end net.Conn, window int) {
	t.Helper()
	l, port := stuckPeer(t)
	const tooMuch = 64 << 10
	c, end = writeTo(t, tr, l, port, tooMuch)
	time.Sleep(100 * time.Millisecond) // until the window is full
	window = tooMuch - outq(t, c)
	if err := errors.Join(c.Abort(), end.Close()); err != nil {
		t.Fatal(err)
	}
	c, end = writeTo(t, tr, l, port, window)
	awaitAtMost(t, "bytes not acknowledged", 0, func() int { return outq(t, c) })
	return c, end, window
}

func writeTo(t *testing.T, tr *reuseport.Transport, l *net.TCPListener, port uint16, n int) (*reuseport.Conn, net.Conn) {
	t.Helper()
	c := dialOnce(t, tr, tcpMultiaddr(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port))
	end, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end.Close() })
	if _, err := c.Write(pattern(n)); err != nil {
		t.Fatal(err)
	}
	return c, end
}

// TestCloseShutWindow: the FIN that waits behind a shut window is waited for; the
// peer, when it reads in the end, reads EOF and not ECONNRESET.
func TestCloseShutWindow(t *testing.T) {
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	c, end, window := shutWindow(t, &tr)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1500 * time.Millisecond) // longer than a quiet peer is given
	wantDataThenEOF(t, end, pattern(window))
	wantDelivered(t, &tr)
}

// TestCloseDoesNotLinger: SetLinger(3) does not make Close wait for a peer that
// cannot take the FIN.
func TestCloseDoesNotLinger(t *testing.T) {
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	c, _, _ := shutWindow(t, &tr)
	if err := c.SetLinger(3); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := c.Close(); err != nil || time.Since(start) > time.Second {
		t.Errorf("Close took %v: %v", time.Since(start), err)
	}
}
