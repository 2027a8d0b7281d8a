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

// Data that arrived before the connection was parked wakes it too.
func TestParkedWithDataWaiting(t *testing.T) {
	parkedServer(t, func(t *testing.T, p *parkedPair) {
		if _, err := p.client.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond) // until it has arrived
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

// gated waits for its gate before each Accept.
type gated struct {
	net.Listener
	gate chan struct{}
}

func (l gated) Accept() (net.Conn, error) {
	<-l.gate
	return l.Listener.Accept()
}

// Other code closes a parked connection, and the next connection gets its descriptor.
// That is noticed at once, and neither connection gets the other's event.
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
	wantEOF(t, second) // its descriptor is free, and is the next to be used
	gate <- struct{}{}
	ask(t, third)
	ask(t, first)
	noticed := time.Now()
	eventually(t, "the first and the third are parked", func() bool { return s.Stats().Parked == 2 })
	if d := time.Since(noticed); runtime.GOOS == "linux" && d > 2*time.Second {
		t.Errorf("noticed after %v, by the sweep", d)
	}
	close(gate)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := wait(); !errors.Is(err, serve.ErrServerClosed) {
		t.Error(err)
	}
}

// Parking clears deadlines: one that passes in the meantime must not fail the next
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

// onlyConn has no SyscallConn, so only its Read can wait.
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
		t.Error("tls.Conn has SyscallConn now: the data it has buffered would not wake the connection")
	}
}

// Many connections are woken, reset, timed out and closed by the user of the server,
// all at once. Each slot must be freed exactly once. Then Close comes in the middle
// of it.
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

// allSlotsWork demands that each slot can hold a connection at the same time.
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

// holdSlot makes a connection that holds a slot. If its request arrives only after
// IdleTimeout, the server has closed it, so holdSlot makes another one.
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
		_ = c.Close() // the server has closed it
	}
	t.Fatal("no slot is free")
	return nil
}

// disorder is an echo server that sometimes closes a connection that it has just
// parked.
type disorder struct {
	held atomic.Int32
	hold chan struct{}
}

func (d *disorder) serve(c net.Conn) (serve.Handler, error) {
	var b [4]byte
	n, err := c.Read(b[:])
	if err != nil {
		return nil, nil // EOF, a reset or closed by us
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

// misbehave makes n connections that send little and end in every possible way.
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
