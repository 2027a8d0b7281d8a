//go:build !plan9

package reuseport_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
)

// closePair is a connection between two Transports on loopback. The dialed end
// leaves from a listening port.
type closePair struct {
	dialer, acceptor reuseport.Transport
	listener         manet.Listener
	target           ma.Multiaddr

	dialed, accepted *reuseport.Conn
}

// newClosePair connects once. Options are to be set on both Transports.
func newClosePair(t testing.TB, flushTimeout time.Duration) *closePair {
	t.Helper()
	p := &closePair{}
	p.dialer.FlushTimeout, p.acceptor.FlushTimeout = flushTimeout, flushTimeout
	listen(t, &p.dialer, "/ip4/127.0.0.1/tcp/0")
	p.listener = listen(t, &p.acceptor, "/ip4/127.0.0.1/tcp/0")
	p.target = p.listener.Multiaddr()
	p.connect(t)
	return p
}

// connect dials and accepts once more.
func (p *closePair) connect(t testing.TB) {
	t.Helper()
	p.dialed = dial(t, &p.dialer, p.target)
	p.accepted = accept(t, p.listener)
}

// dialOnce is dial for those who close by themselves.
func dialOnce(t testing.TB, tr *reuseport.Transport, raddr ma.Multiaddr) *reuseport.Conn {
	t.Helper()
	c, err := tr.Dial(raddr)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*reuseport.Conn)
}

// pattern returns n bytes that do not repeat at powers of two.
func pattern(n int) []byte {
	return bytes.Repeat([]byte("0123456789A"), n/11+1)[:n]
}

// awaitCloses waits until tr has no pending close.
func awaitCloses(t testing.TB, tr *reuseport.Transport) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for tr.Stats().ClosesPending > 0 {
		if ctx.Err() != nil {
			t.Fatalf("closes still pending: %+v", tr.Stats())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// wantDelivered checks that no close of tr was cut.
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

// slowly makes a reader that needs at least d for n bytes.
func slowly(r io.Reader, n int, d time.Duration) io.Reader {
	return readFunc(func(b []byte) (int, error) {
		b = b[:min(len(b), max(1, n/20))]
		time.Sleep(d / 20)
		return io.ReadFull(r, b)
	})
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

var closeSizes = map[string]int{"nothing": 0, "1 B": 1, "100 kB": 100_000, "2 MB": 2_000_000, "64 MB": 64_000_000}

// TestCloseDelivers writes and closes at once, on either side, to a fast and to a
// slow reader.
func TestCloseDelivers(t *testing.T) {
	for name, size := range closeSizes {
		for _, slow := range []time.Duration{0, 500 * time.Millisecond} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p := newClosePair(t, 0)
				data := pattern(size)
				done := writeThenClose(t, p.dialed, data)
				wantDataThenEOF(t, slowly(p.accepted, size, slow), data)
				<-done
				wantDelivered(t, &p.dialer)
				p.connect(t)
				done = writeThenClose(t, p.accepted, data)
				wantDataThenEOF(t, slowly(p.dialed, size, slow), data)
				<-done
				wantDelivered(t, &p.acceptor)
			})
		}
	}
}

// TestCloseDeliversUnread closes with inbound data unread, which makes the
// kernel's own close reset.
func TestCloseDeliversUnread(t *testing.T) {
	for name, size := range closeSizes {
		t.Run(name, func(t *testing.T) {
			p := newClosePair(t, 0)
			if _, err := p.accepted.Write(pattern(50_000)); err != nil {
				t.Fatal(err)
			}
			done := writeThenClose(t, p.dialed, pattern(size))
			wantDataThenEOF(t, p.accepted, pattern(size))
			<-done
			if err := p.accepted.Close(); err != nil {
				t.Error(err)
			}
			wantDelivered(t, &p.dialer)
		})
	}
}

// TestCloseDeliversBoth closes both sides at once, each with data on its way. No
// one reads it, but all of it is acknowledged.
func TestCloseDeliversBoth(t *testing.T) {
	for name, size := range closeSizes {
		t.Run(name, func(t *testing.T) {
			p := newClosePair(t, 0)
			if size > 2_000_000 {
				size = 2_000_000 // more does not fit into the buffers, and nobody reads
			}
			for _, c := range []*reuseport.Conn{p.dialed, p.accepted} {
				bufferAll(t, c, size)
			}
			if err := errors.Join(p.dialed.Close(), p.accepted.Close()); err != nil {
				t.Error(err)
			}
			wantDelivered(t, &p.dialer)
			wantDelivered(t, &p.acceptor)
		})
	}
}

// bufferAll writes as much of size as goes while nobody reads: until nothing went
// for 100 ms.
func bufferAll(t testing.TB, c net.Conn, size int) {
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
}

// TestCloseNegativeFlushTimeout is the control: without delivery data is lost.
func TestCloseNegativeFlushTimeout(t *testing.T) {
	p := newClosePair(t, -1)
	bufferAll(t, p.dialed, 2<<20)
	if err := p.dialed.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(p.accepted)
	wantErr(t, err, syscall.ECONNRESET)
	if len(got) >= 2<<20 {
		t.Error("nothing was lost")
	}
	if n := p.dialer.Stats().ClosesPending; n != 0 {
		t.Errorf("%d pending", n)
	}
}

// TestAbort resets, also with data outstanding, and frees the 4-tuple at once.
func TestAbort(t *testing.T) {
	p := newClosePair(t, 0)
	bufferAll(t, p.dialed, 2<<20)
	if err := p.dialed.Abort(); err != nil {
		t.Fatal(err)
	}
	_, err := io.ReadAll(p.accepted)
	wantErr(t, err, syscall.ECONNRESET)
	wantErr(t, p.dialed.Abort(), net.ErrClosed)
	wantErr(t, p.dialed.Close(), net.ErrClosed)
	p.connect(t)
	if !p.dialed.Reused() {
		t.Errorf("4-tuple not free: %v", p.dialed.Cause())
	}
}

// TestCloseSetLinger: SetLinger(0), which go-libp2p calls, does not turn delivery
// off, and neither does any other value.
func TestCloseSetLinger(t *testing.T) {
	for _, sec := range []int{-1, 0, 3} {
		p := newClosePair(t, 0)
		if err := p.accepted.SetLinger(sec); err != nil {
			t.Fatal(err)
		}
		done := writeThenClose(t, p.accepted, pattern(4<<20))
		wantDataThenEOF(t, p.dialed, pattern(4<<20))
		<-done
		wantDelivered(t, &p.acceptor)
	}
}

// TestCloseIsTCPConns compares with what net.TCPConn documents: calls that wait
// end with net.ErrClosed, and so do all later ones.
func TestCloseIsTCPConns(t *testing.T) {
	for _, outstanding := range []int{0, 4 << 20} {
		p := newClosePair(t, 0)
		bufferAll(t, p.dialed, outstanding)
		if err := p.dialed.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		read, wrote := make(chan error, 1), make(chan error, 1)
		go func() { _, err := p.dialed.Read(make([]byte, 1)); read <- err }()
		if outstanding > 0 {
			go func() { _, err := p.dialed.Write(pattern(16 << 20)); wrote <- err }()
		} else {
			wrote <- net.ErrClosed
		}
		time.Sleep(20 * time.Millisecond) // let them wait
		if err := p.dialed.Close(); err != nil {
			t.Fatal(err)
		}
		wantErr(t, <-read, net.ErrClosed)
		wantErr(t, <-wrote, net.ErrClosed)
		wantAllClosed(t, p.dialed)
	}
}

// wantAllClosed calls the methods of a closed connection.
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

// TestCloseTwiceAtOnce closes from many goroutines: one succeeds, nothing is lost.
func TestCloseTwiceAtOnce(t *testing.T) {
	p := newClosePair(t, 0)
	for range 50 {
		p.connect(t)
		if _, err := p.dialed.Write(pattern(200_000)); err != nil {
			t.Fatal(err)
		}
		errs := make(chan error, 8)
		for range cap(errs) {
			go func() { errs <- p.dialed.Close() }()
		}
		closed := 0
		for range cap(errs) {
			if err := <-errs; err == nil {
				closed++
			} else {
				wantErr(t, err, net.ErrClosed)
			}
		}
		if closed != 1 {
			t.Fatalf("%d calls of Close succeeded", closed)
		}
		wantDataThenEOF(t, p.accepted, pattern(200_000))
	}
	wantDelivered(t, &p.dialer)
}

// TestCloseAfterHalfClose: CloseWrite, CloseRead or both before Close lose nothing.
func TestCloseAfterHalfClose(t *testing.T) {
	for _, half := range []struct{ read, write bool }{{false, true}, {true, false}, {true, true}} {
		p := newClosePair(t, 0)
		wrote := make(chan struct{})
		go func() {
			defer close(wrote)
			_, err := p.dialed.Write(pattern(4 << 20))
			if half.read {
				err = errors.Join(err, p.dialed.CloseRead())
			}
			if half.write {
				err = errors.Join(err, p.dialed.CloseWrite())
			}
			if err := errors.Join(err, p.dialed.Close()); err != nil {
				t.Error(err)
			}
		}()
		wantDataThenEOF(t, p.accepted, pattern(4<<20))
		<-wrote
		wantDelivered(t, &p.dialer)
	}
}

// TestClosePastDeadline: deadlines have no part in Close.
func TestClosePastDeadline(t *testing.T) {
	p := newClosePair(t, 0)
	bufferAll(t, p.dialed, 1<<20)
	if err := p.dialed.SetDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := p.dialed.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(p.accepted); err != nil {
		t.Error(err)
	}
	wantDelivered(t, &p.dialer)
}

// TestCloseReadFrom sends a file (sendfile on Linux) and closes at once.
func TestCloseReadFrom(t *testing.T) {
	name := t.TempDir() + "/file"
	if err := os.WriteFile(name, pattern(8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := newClosePair(t, 0)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, err := io.Copy(p.dialed, f)
		if err := errors.Join(err, p.dialed.Close()); err != nil {
			t.Error(err)
		}
	}()
	wantDataThenEOF(t, p.accepted, pattern(8<<20))
	<-sent
	wantDelivered(t, &p.dialer)
}

// TestCloseQuietCostsNoGoroutine closes connections with nothing outstanding: EOF
// for the peer, no goroutine, nothing pending, the 4-tuple free at once.
func TestCloseQuietCostsNoGoroutine(t *testing.T) {
	linuxOnly(t)
	p := newClosePair(t, 0)
	for range 300 {
		before := runtime.NumGoroutine()
		if err := p.dialed.Close(); err != nil {
			t.Fatal(err)
		}
		if n, s := runtime.NumGoroutine(), p.dialer.Stats(); n > before || s.ClosesPending != 0 {
			t.Fatalf("%d goroutines, %d before; %d pending", n, before, s.ClosesPending)
		}
		wantDataThenEOF(t, p.accepted, nil)
		if p.connect(t); !p.dialed.Reused() {
			t.Fatalf("redial not reused: %v", p.dialed.Cause())
		}
	}
}

// TestCloseCutsAtFlushTimeout: a peer that stops reading is reset after
// FlushTimeout, and counted. One that reads slowly is not.
func TestCloseCutsAtFlushTimeout(t *testing.T) {
	p := newClosePair(t, 300*time.Millisecond)
	bufferAll(t, p.dialed, 64<<20)
	start := time.Now()
	if err := p.dialed.Close(); err != nil || time.Since(start) > time.Second {
		t.Fatalf("Close took %v: %v", time.Since(start), err)
	}
	if n := p.dialer.Stats().ClosesPending; n != 1 {
		t.Errorf("%d pending", n)
	}
	awaitCloses(t, &p.dialer)
	if d := time.Since(start); d < 300*time.Millisecond || d > 3*time.Second {
		t.Errorf("cut after %v", d)
	}
	if s := p.dialer.Stats(); s.ClosesAborted != 1 || s.ClosesReset != 0 || s.BytesUndelivered == 0 {
		t.Errorf("counted %+v", s)
	}
	_, err := io.ReadAll(p.accepted)
	wantErr(t, err, syscall.ECONNRESET)
}

// TestClosePeerResets counts what the peer cuts.
func TestClosePeerResets(t *testing.T) {
	for _, before := range []bool{true, false} {
		p := newClosePair(t, 0)
		bufferAll(t, p.dialed, 64<<20)
		first, second := p.dialed.Close, p.accepted.Abort
		if before {
			first, second = second, first
		}
		if err := errors.Join(first(), second()); err != nil {
			t.Fatal(err)
		}
		awaitCloses(t, &p.dialer)
		if s := p.dialer.Stats(); s.ClosesAborted != 0 || s.ClosesReset != 1 || s.BytesUndelivered == 0 {
			t.Errorf("peer first: %v: counted %+v", before, s)
		}
	}
}

// TestCloseRedial closes with data on its way and dials at once again: the dial
// waits for the close of ours that holds its 4-tuple, and not for the peer's.
func TestCloseRedial(t *testing.T) {
	linuxOnly(t)
	p := newClosePair(t, 0)
	reused := 0
	for range 200 {
		if _, err := p.accepted.Write(pattern(1)); err != nil { // unread when we close
			t.Fatal(err)
		}
		if _, err := p.dialed.Write(pattern(10_000)); err != nil {
			t.Fatal(err)
		}
		if err := p.dialed.Close(); err != nil {
			t.Fatal(err)
		}
		old := p.accepted
		if p.connect(t); p.dialed.Reused() {
			reused++
		}
		wantDataThenEOF(t, old, pattern(10_000))
	}
	if t.Logf("%d of 200 reused", reused); reused < 196 {
		t.Errorf("%d of 200 redials reused the port", reused)
	}
	wantDelivered(t, &p.dialer)
}

// TestCloseThenExit: a process that ends right after Close has delivered.
func TestCloseThenExit(t *testing.T) {
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	startChild(t, "close", l.Multiaddr().String(), "2000000")
	c := accept(t, l)
	time.Sleep(200 * time.Millisecond) // the child is gone by now
	n, err := io.Copy(io.Discard, c)
	if err != nil || n < 100_000 {
		t.Fatalf("%d bytes, then %v", n, err)
	}
}

// childClose dials, writes what goes into the buffers, closes and ends.
func childClose(args []string) error {
	var tr reuseport.Transport
	if _, err := tr.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0")); err != nil {
		return err
	}
	c, err := tr.Dial(ma.StringCast(args[0]))
	if err != nil {
		return err
	}
	if !c.(*reuseport.Conn).Reused() {
		return errors.New("not reused")
	}
	size, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	if err := c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		return err
	}
	if _, err := c.Write(pattern(size)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return c.Close()
}

// TestPeerInConnect: a server that speaks first and closes at once. No dial fails,
// and every byte arrives.
func TestPeerInConnect(t *testing.T) {
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("x"))
			c.Close()
		}
	}()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 250 {
				c, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				if b, err := io.ReadAll(c); string(b) != "x" || err != nil {
					t.Errorf("read %q, %v", b, err)
				}
				c.Close()
			}
		})
	}
	wg.Wait()
}

// TestCloseMeetsFirstWords: a server that closes what it accepts, and clients whose
// first words arrive just then. They read EOF all the same, also where the 4-tuple
// shall stay in TIME_WAIT.
func TestCloseMeetsFirstWords(t *testing.T) {
	for _, linger := range []int{0, -1} {
		var tr reuseport.Transport
		l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
		go closeAccepted(l, linger)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 500 {
					if err := speakFirst(l.Addr().String()); err != nil {
						t.Errorf("SetLinger(%d): %v", linger, err)
					}
				}
			})
		}
		wg.Wait()
	}
}

// closeAccepted closes whatever arrives.
func closeAccepted(l manet.Listener, linger int) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.(*reuseport.Conn).SetLinger(linger)
		c.Close()
	}
}

// speakFirst dials, writes a word and returns how reading ends.
func speakFirst(address string) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	time.Sleep(time.Duration(rand.N(50)) * time.Microsecond)
	c.Write([]byte("hello")) // fails if the server was first
	_, err = io.ReadAll(c)
	return err
}

// TestCloseUnheard closes what was accepted from a peer that has said nothing, and
// dials back at once, with the same 4-tuple: it is free.
func TestCloseUnheard(t *testing.T) {
	linuxOnly(t)
	for _, closes := range []bool{false, true} {
		for range 20 {
			p := newClosePair(t, 0)
			if err := p.accepted.Close(); err != nil {
				t.Fatal(err)
			}
			if closes {
				wantDataThenEOF(t, p.dialed, nil)
				p.dialed.Close()
			}
			ctx := reuseport.WithPortUse(shortly(t, 5*time.Second), reuseport.RequireReuse)
			back, err := p.acceptor.DialContext(ctx, p.dialed.LocalMultiaddr())
			if err != nil {
				t.Fatalf("peer closes %v: %v", closes, err)
			}
			back.Close()
		}
	}
}

// TestCloseFlushTimeoutForEver: the greatest FlushTimeout is for ever, not at once.
func TestCloseFlushTimeoutForEver(t *testing.T) {
	p := newClosePair(t, math.MaxInt64)
	done := writeThenClose(t, p.dialed, pattern(4<<20))
	time.Sleep(100 * time.Millisecond) // until the buffers are full
	wantDataThenEOF(t, p.accepted, pattern(4<<20))
	<-done
	wantDelivered(t, &p.dialer)
}

// TestCloseAfterFile: as with net.TCPConn, Close does not affect what File returned.
func TestCloseAfterFile(t *testing.T) {
	p := newClosePair(t, 0)
	f, err := p.dialed.File()
	if runtime.GOOS == "windows" {
		t.Skip("package net has no File on Windows: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := p.dialed.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := net.FileConn(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(pattern(100_000)); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	wantDataThenEOF(t, p.accepted, pattern(100_000))
}

// TestCloseBesideWrite: a Write that runs beside Close returns net.ErrClosed, also
// where Close sends the FIN first.
func TestCloseBesideWrite(t *testing.T) {
	p := newClosePair(t, 0)
	for range 1000 {
		go io.Copy(io.Discard, p.accepted)
		ended := make(chan error)
		go func() {
			for {
				if _, err := p.dialed.Write([]byte("x")); err != nil {
					ended <- err
					return
				}
				runtime.Gosched()
			}
		}()
		time.Sleep(50 * time.Microsecond)
		p.dialed.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
		p.accepted.Abort()
		p.connect(t)
	}
}
