package reuseport_test

import (
	"errors"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
)

// TestScarceDescriptors: whichever step of Listen or Dial finds no descriptor, the error is
// EMFILE, and nothing is leaked.
func TestScarceDescriptors(t *testing.T) {
	raddr := peer(t, "127.0.0.1:0")
	settled(t)
	before := descriptors()
	const enough = 7 // for every step
	noControl := func(string, string, syscall.RawConn) error { return nil }
	for name, do := range scarceSteps(raddr) {
		for spare := range enough + 1 {
			tr := reuseport.Transport{}
			if spare%2 == 1 {
				tr.Control = noControl
			}
			var err error
			withSpareDescriptors(t, spare, func() { err = do(&tr) })
			if err == nil && spare == 0 || err != nil && (spare == enough || !errors.Is(err, syscall.EMFILE)) {
				t.Errorf("%s with %d to spare: %v", name, spare, err)
			}
			if err := tr.Shutdown(shortly(t, 5*time.Second)); err != nil {
				t.Errorf("%s with %d to spare: Shutdown: %v", name, spare, err)
			}
			awaitAtMost(t, name+": descriptors", before, descriptors)
		}
	}
}

// scarceSteps are the things that a Transport does which open sockets.
func scarceSteps(raddr ma.Multiaddr) map[string]func(*reuseport.Transport) error {
	closed := func(l manet.Listener, err error) error {
		if err != nil {
			return err
		}
		return l.Close()
	}
	return map[string]func(*reuseport.Transport) error{
		"ListenPort": func(tr *reuseport.Transport) error { return closed(tr.ListenPort(0)) },
		"second handle": func(tr *reuseport.Transport) error {
			l, err := tr.ListenPort(0)
			if err != nil {
				return err
			}
			defer l.Close()
			return closed(tr.ListenPort(uint16(portOf(l.Addr()))))
		},
		"wildcard beside specific": func(tr *reuseport.Transport) error {
			l, err := tr.Listen(tcpMultiaddr(localhost, ownPort())) // TIME_WAIT may hold an ephemeral port elsewhere
			if err != nil {
				return err
			}
			defer l.Close()
			return closed(tr.ListenPort(uint16(portOf(l.Addr()))))
		},
		"Dial": func(tr *reuseport.Transport) error {
			l, err := tr.ListenPort(0)
			if err != nil {
				return err
			}
			defer l.Close()
			c, err := tr.Dial(raddr)
			if err != nil {
				return err
			}
			return c.(*reuseport.Conn).Abort()
		},
	}
}

// TestAcceptSurvivesEMFILE: where descriptors run out again and again every connection is
// accepted in the end, and Accept does not spin.
func TestAcceptSurvivesEMFILE(t *testing.T) {
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	var served atomic.Int32
	go countAccepts(l, &served)
	settled(t)
	bursts := rounds(50, 10)
	for i := range bursts {
		dialPlain(t, l.Addr().String())
		await(t, "one with descriptors is accepted", func() bool { return served.Load() == int32(2*i+1) })
		withSpareDescriptors(t, 1, func() { // connect gets it, and Accept none
			connectRaw(t, l.Addr().(*net.TCPAddr))
			time.Sleep(20 * time.Millisecond)
		})
		await(t, "one without is accepted", func() bool { return served.Load() == int32(2*i+2) })
	}
	if n := tr.Stats().AcceptDelayed; n < uint64(bursts) || n > uint64(20*bursts) {
		t.Errorf("%d bursts, Accept waited %d times", bursts, n)
	}
}

// connectRaw connects until the test ends. It needs one descriptor.
func connectRaw(t *testing.T, a *net.TCPAddr) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte(a.IP.To4()), Port: a.Port}); err != nil {
		t.Fatal(err)
	}
}

// TestCloseAtDescriptorLimit: a Close that finds no descriptor delivers all the same, and
// meanwhile the connection's methods return net.ErrClosed.
func TestCloseAtDescriptorLimit(t *testing.T) {
	p := newClosePair(t, 0)
	settled(t)
	goroutines := runtime.NumGoroutine()
	bufferAll(t, p.dialed, 32<<20)
	p.dialed.SetDeadline(time.Time{})
	read := make(chan error, 1)
	go func() { _, err := p.dialed.Read(make([]byte, 1)); read <- err }()
	closeWithoutDescriptors(t, p.dialed)
	wantErr(t, <-read, net.ErrClosed)
	wantAllClosed(t, p.dialed)
	if n, err := io.Copy(io.Discard, p.accepted); err != nil || n < 100_000 {
		t.Errorf("%d bytes, then %v", n, err)
	}
	if err := p.accepted.Close(); err != nil {
		t.Error(err)
	}
	wantDelivered(t, &p.dialer)
	awaitAtMost(t, "goroutines", goroutines, runtime.NumGoroutine)
}

// TestRedialAfterScarceClose: a redial gets the 4-tuple of a close that found no
// descriptor, too.
func TestRedialAfterScarceClose(t *testing.T) {
	p := newClosePair(t, 0)
	for range 10 {
		if _, err := p.accepted.Write([]byte("unread")); err != nil {
			t.Fatal(err)
		}
		awaitUnread(t, p.dialed)
		closeWithoutDescriptors(t, p.dialed)
		p.redial(t)
		p.connect(t)
	}
}

// closeWithoutDescriptors closes c while the process can get no descriptor.
func closeWithoutDescriptors(t *testing.T, c *reuseport.Conn) {
	t.Helper()
	withSpareDescriptors(t, 0, func() {
		if _, err := unix.Dup(0); !errors.Is(err, unix.EMFILE) {
			t.Fatal("there are descriptors: ", err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestScarceGivesUpCloses: a step that finds no descriptor gets those of pending closes. Nothing of
// these closes is lost.
func TestScarceGivesUpCloses(t *testing.T) {
	if !apart(t) {
		return // what other tests have left frees descriptors
	}
	for name, step := range map[string]func(tr *reuseport.Transport, own, peer ma.Multiaddr) error{
		"Dial": func(tr *reuseport.Transport, _, peer ma.Multiaddr) error {
			return dialAbort(tr.DialContext(required(t), peer))
		},
		"Dial from a new port": func(tr *reuseport.Transport, _, peer ma.Multiaddr) error {
			return dialAbort(tr.DialContext(reuseport.WithPortUse(t.Context(), reuseport.NewPort), peer))
		},
		"Listen again": func(tr *reuseport.Transport, own, _ ma.Multiaddr) error {
			l, err := tr.Listen(own)
			if err != nil {
				return err
			}
			return l.Close()
		},
		"Listen": func(tr *reuseport.Transport, _, _ ma.Multiaddr) error {
			l, err := tr.Listen(tcpMultiaddr(ownIP(), 0))
			if err != nil {
				return err
			}
			return l.Close()
		},
	} {
		var tr reuseport.Transport
		own := listen(t, &tr, "/ip4/127.0.0.1/tcp/0").Multiaddr()
		l, port := stuckPeer(t)
		peer := peer(t, "127.0.0.1:0")
		ends := closeStuck(t, &tr, l, port, 2) // a second handle takes two for a moment
		noGaps(t)
		var err error
		withSpareDescriptors(t, 0, func() { err = step(&tr, own, peer) })
		if s := tr.Stats(); err != nil || s.ClosesAborted != 2 || s.ClosesPending != 0 {
			t.Errorf("%s: %v; %d closes given up, %d pending", name, err, s.ClosesAborted, s.ClosesPending)
		}
		for _, end := range ends {
			wantDataThenEOF(t, end, pattern(64<<10))
			end.Close()
		}
	}
}

// dialAbort resets what a dial brought.
func dialAbort(c net.Conn, err error) error {
	if err != nil {
		return err
	}
	return c.(*reuseport.Conn).Abort()
}

// TestScarceCloseGivesUpCloses: a Close that finds no descriptor gets one of an older close, and
// is looked after.
func TestScarceCloseGivesUpCloses(t *testing.T) {
	if !apart(t) {
		return // what other tests have left frees descriptors
	}
	var tr reuseport.Transport
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	l, port := stuckPeer(t)
	conns, ends := writeStuck(t, &tr, l, port, 2)
	closeAll(t, conns[:1])
	noGaps(t)
	closeWithoutDescriptors(t, conns[1])
	if s := tr.Stats(); s.ClosesAborted != 1 || s.ClosesPending != 1 {
		t.Errorf("%d closes given up, %d pending, want 1 and 1", s.ClosesAborted, s.ClosesPending)
	}
	for _, end := range ends {
		wantDataThenEOF(t, end, pattern(64<<10))
		end.Close()
	}
}

// TestScarceAcceptGivesUpCloses: an Accept that finds no descriptor gets one of a pending close,
// and does not wait.
func TestScarceAcceptGivesUpCloses(t *testing.T) {
	if !apart(t) {
		return // what other tests have left frees descriptors
	}
	var tr reuseport.Transport
	in := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	l, port := stuckPeer(t)
	end := closeStuck(t, &tr, l, port, 1)[0]
	noGaps(t)
	withSpareDescriptors(t, 1, func() { // connect gets it
		connectRaw(t, in.Addr().(*net.TCPAddr))
		accept(t, in)
	})
	if s := tr.Stats(); s.ClosesAborted != 1 || s.AcceptDelayed != 0 {
		t.Errorf("%d closes given up, Accept waited %d times, want 1 and 0", s.ClosesAborted, s.AcceptDelayed)
	}
	wantDataThenEOF(t, end, pattern(64<<10))
	end.Close()
}

// noGaps is fillGaps until the test ends.
func noGaps(t *testing.T) {
	t.Helper()
	undo, err := fillGaps()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(undo)
}
