package reuseport_test

import (
	"context"
	"errors"
	"fmt"
	"net"
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

// TestScarceDescriptors lets Listen and Dial run out of descriptors at each of
// their steps: the error is EMFILE, and nothing is leaked.
func TestScarceDescriptors(t *testing.T) {
	raddr := peer(t, "127.0.0.1:0")
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	noControl := func(string, string, syscall.RawConn) error { return nil }
	for name, do := range scarceSteps(raddr) {
		for spare := range 8 {
			tr := reuseport.Transport{}
			if spare%2 == 1 {
				tr.Control = noControl
			}
			settled(t)
			before := descriptors(t)
			low := limit
			low.Cur = uint64(lowestFree(t) + spare)
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
				t.Fatal(err)
			}
			err := do(&tr)
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
				t.Fatal(err)
			}
			if err != nil && !errors.Is(err, syscall.EMFILE) {
				t.Errorf("%s with %d to spare: %v, want EMFILE", name, spare, err)
			}
			if err := tr.Shutdown(shortly(t, 5*time.Second)); err != nil {
				t.Errorf("%s with %d to spare: Shutdown: %v", name, spare, err)
			}
			awaitAtMost(t, name+": descriptors", before, func() int { return descriptors(t) })
		}
	}
}

// scarceSteps are what a Transport does that opens sockets.
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
			l, err := tr.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
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

// TestShapesBeside opens three listeners of every shape on one port, in every
// order: the Transport has them all, and another one gets none.
func TestShapesBeside(t *testing.T) {
	shapes := []string{"/ip4/127.0.0.1/tcp/%d", "/ip4/127.0.0.2/tcp/%d", "/ip4/0.0.0.0/tcp/%d", "/ip6/::1/tcp/%d", "/ip6/::/tcp/%d", "dual"}
	open := func(tr *reuseport.Transport, shape string, port uint16) (manet.Listener, error) {
		if shape == "dual" {
			return tr.ListenPort(port)
		}
		return tr.Listen(ma.StringCast(fmt.Sprintf(shape, port)))
	}
	for _, a := range shapes {
		for _, b := range shapes {
			for _, c := range shapes {
				var ours, theirs reuseport.Transport
				port := ownPort()
				for _, shape := range []string{a, b, c} {
					if _, err := open(&ours, shape, port); err != nil {
						t.Errorf("%s, %s, %s: %v", a, b, c, err)
					}
				}
				for _, shape := range []string{a, b, c} {
					if _, err := open(&theirs, shape, port); !errors.Is(err, syscall.EADDRINUSE) {
						t.Errorf("another Transport beside %s, %s, %s on %s: %v", a, b, c, shape, err)
					}
				}
				ours.Shutdown(context.Background())
				theirs.Shutdown(context.Background())
			}
		}
	}
}

// TestNothingLostWhileListening connects all the time while listeners open, one
// beside another: whoever is connected is served.
func TestNothingLostWhileListening(t *testing.T) {
	ip, port := ownIP(), ownPort()
	address := fmt.Sprintf("%v:%d", ip, port)
	for range 100 {
		var tr reuseport.Transport
		var connected, served atomic.Int32
		stop := make(chan struct{})
		var dialers sync.WaitGroup
		for range 2 {
			dialers.Go(func() { connectUntil(t, address, stop, &connected) })
		}
		for _, open := range []func() (manet.Listener, error){
			func() (manet.Listener, error) { return tr.ListenPort(port) },
			func() (manet.Listener, error) { return tr.Listen(tcpMultiaddr(ip, port)) },
		} {
			l, err := open()
			if err != nil {
				t.Fatal(err)
			}
			go greetAll(l, &served)
		}
		time.Sleep(time.Millisecond)
		close(stop)
		dialers.Wait()
		if connected.Load() != served.Load() {
			t.Fatalf("%d connected, %d served", connected.Load(), served.Load())
		}
		tr.Shutdown(context.Background())
	}
}

// connectUntil dials and reads one byte from each connection that it gets.
func connectUntil(t *testing.T, address string, stop chan struct{}, connected *atomic.Int32) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		c, err := net.DialTimeout("tcp", address, 5*time.Second)
		if errors.Is(err, syscall.ECONNREFUSED) {
			continue
		}
		if err != nil {
			t.Error(err)
			return
		}
		connected.Add(1)
		c.SetDeadline(time.Now().Add(5 * time.Second))
		if n, err := c.Read(make([]byte, 1)); n != 1 {
			t.Error("connected and not served: ", err)
		}
		c.Close()
	}
}

// greetAll writes one byte to each connection and waits for its end.
func greetAll(l manet.Listener, served *atomic.Int32) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		served.Add(1)
		c.Write([]byte("x"))
		go func() { c.Read(make([]byte, 1)); c.Close() }()
	}
}
