//go:build !plan9

package serve_test

import (
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/serve"
)

// parkedServer runs a test with one connection parked in each way there is: by
// the epoll set, where there is one, and by a goroutine.
func parkedServer(t *testing.T, test func(t *testing.T, p *parkedPair)) {
	t.Run("set", func(t *testing.T) { test(t, newPair(t, false, 0)) })
	t.Run("goroutine", func(t *testing.T) { test(t, newPair(t, true, 0)) })
}

// parkedPair is a server with one connection, about to be parked.
type parkedPair struct {
	*serve.Server
	client *net.TCPConn
	server net.Conn
	calls  atomic.Int32  // of the handler that was parked
	told   chan error    // what its Read said
	alone  bool          // by a goroutine
	parks  chan struct{} // closed to have it parked
}

func newPair(t *testing.T, alone bool, timeout time.Duration) *parkedPair {
	p := &parkedPair{Server: new(serve.Server), told: make(chan error, 10), alone: alone, parks: make(chan struct{})}
	p.MaxConns, p.IdleTimeout = 1, timeout
	got := make(chan net.Conn, 1)
	p.Handler = func(c net.Conn) (serve.Handler, error) {
		got <- c
		<-p.parks
		return p.woken, nil
	}
	t.Cleanup(leaks(t))
	p.client = dial(t, running(t, p.Server))
	p.server = <-got
	return p
}

// park lets the connection be parked.
func (p *parkedPair) park(t *testing.T) {
	t.Helper()
	parked := func() {
		close(p.parks)
		eventually(t, "parked", func() bool {
			st := p.Stats()
			return st.Parked == 1 || st.IdleTimeouts == 1
		})
	}
	if p.alone {
		withoutDescriptors(t, parked)
		return
	}
	parked()
}

// woken reads what there is, which must not take time, and parks again unless it
// is an error.
func (p *parkedPair) woken(c net.Conn) (serve.Handler, error) {
	p.calls.Add(1)
	_, err := c.Read(make([]byte, 64))
	p.told <- err
	if err != nil {
		return nil, nil
	}
	return p.woken, nil
}

// gone demands that the slot is free after the given number of calls.
func (p *parkedPair) gone(t *testing.T, calls int32) {
	t.Helper()
	eventually(t, "the slot is free", func() bool {
		st := p.Stats()
		return st.Parked == 0 && st.Active == 0
	})
	if n := p.calls.Load(); n != calls {
		t.Errorf("%d calls of the handler, want %d", n, calls)
	}
}

func TestParkedWokenByData(t *testing.T) {
	parkedServer(t, func(t *testing.T, p *parkedPair) {
		p.park(t)
		for range 3 {
			if _, err := p.client.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if err := <-p.told; err != nil {
				t.Fatal(err)
			}
			eventually(t, "parked again", func() bool { return p.Stats().Parked == 1 })
		}
		if err := p.client.Close(); err != nil {
			t.Fatal(err)
		}
		p.gone(t, 4)
	})
}

// Data that came before the connection was parked wakes it as well.
func TestParkedWithDataWaiting(t *testing.T) {
	parkedServer(t, func(t *testing.T, p *parkedPair) {
		if _, err := p.client.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond) // to have it there first
		start := func() { close(p.parks) }
		if p.alone {
			withoutDescriptors(t, func() { start(); <-p.told })
		} else {
			start()
			<-p.told
		}
	})
}

func TestParkedHalfClose(t *testing.T) {
	parkedServer(t, func(t *testing.T, p *parkedPair) {
		p.park(t)
		if err := p.client.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := <-p.told; !errors.Is(err, io.EOF) {
			t.Errorf("handler read %v, want EOF", err)
		}
		wantEOF(t, p.client)
		p.gone(t, 1)
	})
}

func TestParkedReset(t *testing.T) {
	parkedServer(t, func(t *testing.T, p *parkedPair) {
		p.park(t)
		if err := errors.Join(p.client.SetLinger(0), p.client.Close()); err != nil {
			t.Fatal(err)
		}
		if err := <-p.told; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("handler read %v, want ECONNRESET", err)
		}
		p.gone(t, 1)
	})
}

func TestParkedIdleTimeout(t *testing.T) {
	for _, alone := range []bool{false, true} {
		p := newPair(t, alone, 20*time.Millisecond)
		p.park(t)
		wantEOF(t, p.client)
		p.gone(t, 0)
		if n := p.Stats().IdleTimeouts; n != 1 {
			t.Errorf("%d idle timeouts", n)
		}
	}
}

// The one timer goes on to the next deadline.
func TestIdleTimeoutsOneAfterAnother(t *testing.T) {
	s := &serve.Server{ParkNew: true, Handler: echo, IdleTimeout: 50 * time.Millisecond}
	l := running(t, s)
	var conns []net.Conn
	for range 3 {
		conns = append(conns, dial(t, l))
		time.Sleep(20 * time.Millisecond)
	}
	for _, c := range conns {
		wantEOF(t, c)
	}
	eventually(t, "all are counted", func() bool { return s.Stats().IdleTimeouts == 3 })
}

func TestParkedClose(t *testing.T) {
	parkedServer(t, func(t *testing.T, p *parkedPair) {
		p.park(t)
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		wantEOF(t, p.client)
		p.gone(t, 0)
	})
}

func TestParkedShutdown(t *testing.T) {
	parkedServer(t, func(t *testing.T, p *parkedPair) {
		p.park(t)
		shutdown(t, p.Server)
		wantEOF(t, p.client)
		p.gone(t, 0)
	})
}

// A new connection whose request is still on its way is served.
func TestShutdownServesTheNew(t *testing.T) {
	s := &serve.Server{ParkNew: true, Handler: echo}
	c := dial(t, running(t, s))
	eventually(t, "parked", func() bool { return s.Stats().Parked == 1 })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		shutdown(t, s)
	}()
	eventually(t, "the handler runs", func() bool { return s.Stats().Active == 1 })
	ask(t, c)
	wantEOF(t, c)
	<-ended
}

// What had come before Shutdown began is answered, whether its event was seen or not.
func TestShutdownServesWhatHasCome(t *testing.T) {
	const n = 200
	s := &serve.Server{Handler: echo}
	l := running(t, s)
	clients := make([]net.Conn, n)
	for i := range clients {
		clients[i] = dial(t, l)
		ask(t, clients[i])
	}
	eventually(t, "parked", func() bool { return s.Stats().Parked == n })
	for _, c := range clients {
		if _, err := c.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
	}
	shutdown(t, s)
	for _, c := range clients {
		if got, err := io.ReadAll(c); err != nil || len(got) != 1 {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

// A handler that asks to be parked after Shutdown began is done.
func TestParkedAfterShutdown(t *testing.T) {
	p := newPair(t, false, 0)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		shutdown(t, p.Server)
	}()
	<-p.Done()
	eventually(t, "the parking is closed", func() bool { return p.Stats().Active == 1 })
	close(p.parks)
	<-ended
	wantEOF(t, p.client)
	p.gone(t, 0)
}

// Somebody else may close a connection while it is parked. The slot is free in
// time, and the handler is not called.
func TestParkedClosedElsewhere(t *testing.T) {
	parkedServer(t, func(t *testing.T, p *parkedPair) {
		p.park(t)
		if err := p.server.Close(); err != nil {
			t.Fatal(err)
		}
		p.gone(t, 0)
		wantEOF(t, p.client)
	})
}

// gated accepts when it is told to.
type gated struct {
	net.Listener
	gate chan struct{}
}

func (l gated) Accept() (net.Conn, error) {
	<-l.gate
	return l.Listener.Accept()
}

// The same, and the next connection gets the same descriptor: then it is noticed
// at once, and neither gets the other's event.
func TestParkedDescriptorReused(t *testing.T) {
	conns := make(chan net.Conn, 10)
	s := &serve.Server{Handler: func(c net.Conn) (serve.Handler, error) {
		conns <- c
		return echo, nil
	}}
	l := listen(t)
	gate := make(chan struct{})
	wait := begin(s, gated{l, gate})
	first, second, third := dial(t, l), dial(t, l), dial(t, l)
	gate <- struct{}{}
	<-conns
	gate <- struct{}{}
	closed := <-conns
	eventually(t, "both are parked", func() bool { return s.Stats().Parked == 2 })
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	wantEOF(t, second) // the descriptor is free, and the next one to be given
	gate <- struct{}{}
	ask(t, third)
	ask(t, first)
	noticed := time.Now()
	eventually(t, "the first and the third are parked", func() bool { return s.Stats().Parked == 2 })
	if d := time.Since(noticed); runtime.GOOS == "linux" && d > 2*time.Second {
		t.Errorf("noticed after %v, which is the sweep's doing", d)
	}
	close(gate)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := wait(); !errors.Is(err, serve.ErrServerClosed) {
		t.Error(err)
	}
}

// Parking clears deadlines: one that passes meanwhile must not fail the next
// handler.
func TestParkingClearsDeadlines(t *testing.T) {
	s := &serve.Server{Handler: func(c net.Conn) (serve.Handler, error) {
		return echo, c.SetDeadline(time.Now().Add(10 * time.Millisecond))
	}}
	c := dial(t, running(t, s))
	eventually(t, "parked", func() bool { return s.Stats().Parked == 1 })
	time.Sleep(50 * time.Millisecond)
	ask(t, c)
}

func TestParkNew(t *testing.T) {
	var calls atomic.Int32
	s := &serve.Server{ParkNew: true, Handler: func(c net.Conn) (serve.Handler, error) {
		calls.Add(1)
		return echo(c)
	}}
	c := dial(t, running(t, s))
	eventually(t, "parked", func() bool { return s.Stats().Parked == 1 })
	if calls.Load() != 0 {
		t.Error("called with nothing to read")
	}
	ask(t, c)
	ask(t, c)
	if calls.Load() != 1 {
		t.Error("the first handler is called for later requests")
	}
}

// onlyConn has no SyscallConn: there is nothing to wait for but its Read.
type onlyConn struct{ net.Conn }

type onlyConns struct{ net.Listener }

func (l onlyConns) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return onlyConn{c}, err
}

func TestUnparkableIsServed(t *testing.T) {
	s := &serve.Server{Handler: echo, ParkNew: true}
	l := listen(t)
	wait := begin(s, onlyConns{l})
	c := dial(t, l)
	ask(t, c)
	ask(t, c)
	if st := s.Stats(); st.Parked != 0 || st.Active != 1 {
		t.Errorf("%+v", st)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := wait(); !errors.Is(err, serve.ErrServerClosed) {
		t.Error(err)
	}
	if _, ok := any(new(tls.Conn)).(syscall.Conn); ok {
		t.Error("tls.Conn has SyscallConn now: what it has buffered would wake nobody")
	}
}

// Many connections, woken, reset, closed by the server's user and timed out at
// once: each slot comes back, and just once. Then Close in the middle of it.
func TestParkedStress(t *testing.T) {
	for round := range 4 {
		check := leaks(t)
		d := &disorder{hold: make(chan struct{})}
		s := &serve.Server{Handler: d.serve, MaxConns: 50, IdleTimeout: 5 * time.Millisecond, ParkNew: round%2 == 0}
		l := listen(t)
		wait := begin(s, l)
		crowd(l, 10).Wait()
		allSlotsWork(t, s, l, d)
		clients := crowd(l, 50)
		time.Sleep(100 * time.Millisecond)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		shutdown(t, s)
		if err := wait(); !errors.Is(err, serve.ErrServerClosed) {
			t.Error(err)
		}
		clients.Wait()
		if st := s.Stats(); st.Active != 0 || st.Parked != 0 {
			t.Errorf("%+v", st)
		}
		check()
	}
}

// allSlotsWork has each slot hold a connection at the same time.
func allSlotsWork(t *testing.T, s *serve.Server, l net.Listener, d *disorder) {
	t.Helper()
	for range s.MaxConns {
		c := holdSlot(t, l)
		defer func() { _ = c.Close() }() // the server has closed it
	}
	if n := int(d.held.Load()); n != s.MaxConns {
		t.Errorf("%d connections are held, want %d", n, s.MaxConns)
	}
	close(d.hold)
}

// holdSlot makes a connection that holds a slot. One whose request comes only after
// IdleTimeout has been closed by then, so another one takes its place.
func holdSlot(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		c := dial(t, l)
		_, err := c.Write([]byte("hold"))
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		if err == nil {
			return c
		}
		_ = c.Close() // the server has
	}
	t.Fatal("no slot is free")
	return nil
}

// disorder is an echo server that now and then closes a connection after it
// parked it.
type disorder struct {
	held atomic.Int32
	hold chan struct{}
}

func (d *disorder) serve(c net.Conn) (serve.Handler, error) {
	var b [4]byte
	n, err := c.Read(b[:])
	if err != nil {
		return nil, nil // in all ways that there are
	}
	if string(b[:n]) == "hold" {
		d.held.Add(1)
		_, _ = c.Write(b[:1]) // the client waits for it
		<-d.hold
		return nil, nil
	}
	if rand.IntN(5) == 0 {
		time.AfterFunc(time.Millisecond, func() { _ = c.Close() }) // the server may have been first
	}
	_, _ = c.Write(b[:n]) // the client may be gone
	return d.serve, nil
}

// crowd starts 100 clients that make n connections each.
func crowd(l net.Listener, n int) *sync.WaitGroup {
	var clients sync.WaitGroup
	for range 100 {
		clients.Go(func() { misbehave(l.Addr().String(), n) })
	}
	return &clients
}

// misbehave makes n connections that ask a little and end in all ways.
func misbehave(addr string, n int) {
	for range n {
		c, err := net.DialTimeout("tcp4", addr, patience)
		if err != nil {
			return // the server is closed
		}
		for range rand.IntN(3) {
			_, _ = c.Write([]byte("x")) // may be cut
			_, _ = c.Read(make([]byte, 1))
		}
		time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
		_ = c.(*net.TCPConn).SetLinger(rand.IntN(2) - 1) // a reset or a FIN
		_ = c.Close()
	}
}
