//go:build !plan9

package reuseport_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
)

// TestAbort: Abort resets, also with data outstanding, and frees the 4-tuple at once.
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

// TestAbortResets: Abort resets whatever SetLinger said before, and from an ephemeral port too.
func TestAbortResets(t *testing.T) {
	p := newClosePair(t, 0)
	abort(t, p.dialed) // its 4-tuple is needed
	for _, use := range []reuseport.PortUse{reuseport.PreferReuse, reuseport.NewPort} {
		for _, sec := range []int{0, -1, 3} {
			c, err := p.dialer.DialContext(reuseport.WithPortUse(t.Context(), use), p.target)
			if err != nil {
				t.Fatal(err)
			}
			in := accept(t, p.listener)
			if err := c.(*reuseport.Conn).SetLinger(sec); err != nil {
				t.Fatal(err)
			}
			abort(t, c.(*reuseport.Conn))
			if _, err := in.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%v, SetLinger(%d): the peer reads %v", use, sec, err)
			}
		}
	}
}

// TestAbortNewPort: Abort resets a connection from an ephemeral port of which SetLinger was not
// called.
func TestAbortNewPort(t *testing.T) {
	var tr, other reuseport.Transport
	l := listen(t, &other, "/ip4/127.0.0.1/tcp/0")
	c := dialOnce(t, &tr, l.Multiaddr())
	in := accept(t, l)
	abort(t, c)
	_, err := in.Read(make([]byte, 1))
	wantErr(t, err, syscall.ECONNRESET)
}

// TestCloseEmbeddedClosed: after the embedded connection was closed, Close and Abort return
// net.ErrClosed.
func TestCloseEmbeddedClosed(t *testing.T) {
	file := func(c *reuseport.Conn) error { f, err := c.File(); return errors.Join(err, f.Close()) }
	nothing := func(*reuseport.Conn) error { return nil }
	for name, row := range map[string]struct {
		flushTimeout time.Duration
		before, ends func(*reuseport.Conn) error
	}{
		"Close":                     {0, nothing, (*reuseport.Conn).Close},
		"Close without delivery":    {-1, nothing, (*reuseport.Conn).Close},
		"Close after File":          {0, file, (*reuseport.Conn).Close},
		"Abort":                     {0, nothing, (*reuseport.Conn).Abort},
		"Abort without SO_LINGER 0": {0, func(c *reuseport.Conn) error { return c.SetLinger(-1) }, (*reuseport.Conn).Abort},
	} {
		p := newClosePair(t, row.flushTimeout)
		if err := row.before(p.dialed); err != nil {
			t.Logf("%s: %v", name, err) // package net has no File on Windows
			continue
		}
		if err := p.dialed.TCPConn.Close(); err != nil {
			t.Fatal(err)
		}
		if err := row.ends(p.dialed); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCloseIsTCPConns: after Close, as net.TCPConn documents it, calls that wait return
// net.ErrClosed, and so do all later ones.
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

// TestCloseTwiceAtOnce: many goroutines call Close at the same time. One call succeeds, and
// nothing is lost.
func TestCloseTwiceAtOnce(t *testing.T) {
	t.Parallel()
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

// TestCloseQuietCostsNoGoroutine: closing a connection with nothing outstanding starts no
// goroutine and leaves nothing pending. The peer reads EOF, and the 4-tuple is free at once.
func TestCloseQuietCostsNoGoroutine(t *testing.T) {
	linuxOnly(t)
	p := newClosePair(t, 0)
	for range 300 {
		before := runtime.NumGoroutine()
		if err := p.dialed.Close(); err != nil {
			t.Fatal(err)
		}
		n, s := runtime.NumGoroutine(), p.dialer.Stats()
		if n > before {
			time.Sleep(5 * time.Millisecond) // an inspection of earlier closes may be under way
			n = runtime.NumGoroutine()
		}
		if n > before || s.ClosesPending != 0 {
			t.Fatalf("%d goroutines, %d before; %d pending", n, before, s.ClosesPending)
		}
		wantDataThenEOF(t, p.accepted, nil)
		if p.connect(t); !p.dialed.Reused() {
			t.Fatalf("redial not reused: %v", p.dialed.Cause())
		}
	}
}

// TestCloseRedial: a dial right after a Close with data on its way waits for that close of ours,
// which holds its 4-tuple, and not for the peer's.
func TestCloseRedial(t *testing.T) {
	linuxOnly(t)
	p := newClosePair(t, 0)
	reused := 0
	var took []time.Duration
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
		old, start := p.accepted, time.Now()
		if p.connect(t); p.dialed.Reused() {
			reused++
		}
		took = append(took, time.Since(start))
		wantDataThenEOF(t, old, pattern(10_000))
	}
	slices.Sort(took)
	if median := took[len(took)/2]; median > 20*time.Millisecond {
		t.Errorf("a redial took %v in the median", median)
	}
	if t.Logf("%d of 200 reused", reused); reused < 196 {
		t.Errorf("%d of 200 redials reused the port", reused)
	}
	wantDelivered(t, &p.dialer)
}

// TestPeerInConnect: a server speaks first and closes at once. No dial to it fails, and every
// byte arrives.
func TestPeerInConnect(t *testing.T) {
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	go acceptEach(l.Accept, func(c manet.Conn) { c.Write([]byte("x")); c.Close() })
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

// TestCloseMeetsFirstWords: a server writes to what it accepts and closes it while the
// client's first words arrive. The client reads all and then EOF, also where the 4-tuple is to
// stay in TIME_WAIT.
func TestCloseMeetsFirstWords(t *testing.T) {
	for _, linger := range []int{0, -1} {
		var tr reuseport.Transport
		l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
		go acceptEach(l.Accept, func(c manet.Conn) {
			c.(*reuseport.Conn).SetLinger(linger)
			c.Write([]byte("busy"))
			c.Close()
		})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range rounds(500, 50) {
					if got, err := speakFirst(l.Addr().String()); got != "busy" || err != nil {
						t.Errorf("SetLinger(%d): read %q, %v", linger, got, err)
					}
				}
			})
		}
		wg.Wait()
	}
}

// speakFirst dials, writes a word and reads to the end.
func speakFirst(address string) (string, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	time.Sleep(time.Duration(rand.N(50)) * time.Microsecond)
	c.Write([]byte("hello")) // fails if the server was first
	got, err := io.ReadAll(c)
	return string(got), err
}

// TestCloseUnheard: a connection is accepted from a peer that says nothing, and closed. Its
// 4-tuple can be dialed at once.
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

// TestFileIsNonBlocking: Close of what File returned ends a Read of it.
func TestFileIsNonBlocking(t *testing.T) {
	linuxOnly(t)
	p := newClosePair(t, 0)
	f, err := p.dialed.File()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := f.Read(make([]byte, 1))
		ended <- err
	}()
	time.Sleep(20 * time.Millisecond) // until it reads
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		wantErr(t, err, os.ErrClosed)
	case <-time.After(patience):
		t.Error("Read goes on after Close")
	}
}

// TestFileDoesNotReset: a program that has what File returned and knows nothing of this package
// closes it, after c was closed, and its peer reads everything.
func TestFileDoesNotReset(t *testing.T) {
	linuxOnly(t)
	const size = 1 << 20
	for range 10 {
		p := newClosePair(t, 0)
		f, err := p.accepted.File()
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.FileConn(f)
		if err := errors.Join(err, f.Close(), p.accepted.Close()); err != nil {
			t.Fatal(err)
		}
		written := writeThenClose(t, c, pattern(size))
		wantDataThenEOF(t, slowly(p.dialed, size/4, 10*time.Millisecond), pattern(size))
		<-written
	}
}

// TestCloseBesideWrite: a Write that runs beside Close returns net.ErrClosed, also where
// Close sends the FIN first.
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

// BenchmarkClose closes a reused connection with nothing outstanding. It reports for which part
// of the connections the peer read EOF.
func BenchmarkClose(b *testing.B) {
	for name, close := range map[string]func(*reuseport.Conn) error{
		"Close":   (*reuseport.Conn).Close,
		"Abort":   (*reuseport.Conn).Abort,
		"TCPConn": func(c *reuseport.Conn) error { return c.TCPConn.Close() }, // SO_LINGER 0 and nothing else
	} {
		b.Run(name, func(b *testing.B) { benchmarkClose(b, close) })
	}
}

func benchmarkClose(b *testing.B, close func(*reuseport.Conn) error) {
	var tr reuseport.Transport
	listen(b, &tr, "/ip4/127.0.0.1/tcp/0")
	l := listen(b, &tr, "/ip4/127.0.0.1/tcp/0")
	var eof int
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		c := dialOnce(b, &tr, l.Multiaddr())
		in, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := close(c); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if _, err := in.Read(make([]byte, 1)); err == io.EOF {
			eof++
		}
		if err := in.(*reuseport.Conn).Abort(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(eof)/float64(b.N), "EOF")
}
