package reuseport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	goreuseport "github.com/libp2p/go-reuseport"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
)

// TestLingerFromTheFirst: while others connect all the time, as at a restart under load, a
// connection that arrives the moment after listen has SO_LINGER 0 like all others.
func TestLingerFromTheFirst(t *testing.T) {
	addr := tcpMultiaddr(ownIP(), ownPort())
	knockAllTheTime(t, addr)
	without, n := 0, rounds(1000, 100)
	for range n {
		var tr reuseport.Transport
		l := listen(t, &tr, addr.String())
		c := accept(t, l)
		if zero, err := lingersZero(c); err != nil || !zero {
			without++
		}
		c.Abort()
		l.Close()
	}
	if without > 0 {
		t.Errorf("%d of %d first connections have no SO_LINGER 0", without, n)
	}
}

// knockAllTheTime connects to addr from a few goroutines until the test ends.
func knockAllTheTime(t *testing.T, addr ma.Multiaddr) {
	_, address, err := manet.DialArgs(addr)
	if err != nil {
		t.Fatal(err)
	}
	var done atomic.Bool
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for !done.Load() {
				if c, err := net.DialTimeout("tcp", address, time.Second); err == nil {
					c.Close()
				}
			}
		})
	}
	t.Cleanup(func() { done.Store(true); wg.Wait() })
}

// TestJoinerGetsNothing: a later SO_REUSEPORT listener of the same user gets nothing on our
// address. On a more specific one it gets all.
func TestJoinerGetsNothing(t *testing.T) {
	for _, row := range []struct {
		ours, joiner, target string
		joinerGets           int32
	}{
		{"127.0.0.1", "127.0.0.1", "127.0.0.1", 0},
		{"0.0.0.0", "0.0.0.0", "127.0.0.1", 0},
		{"0.0.0.0", "127.0.0.1", "127.0.0.1", 400},
	} {
		t.Run(row.ours+" "+row.joiner, func(t *testing.T) {
			var tr reuseport.Transport
			l := listen(t, &tr, "/ip4/"+row.ours+"/tcp/0")
			var ours, theirs atomic.Int32
			go countAccepts(l, &ours)
			port := strconv.Itoa(portOf(l.Addr()))
			joiner, err := goreuseport.Listen("tcp4", net.JoinHostPort(row.joiner, port))
			if err != nil {
				t.Fatal(err)
			}
			defer joiner.Close()
			go acceptEach(joiner.Accept, func(c net.Conn) { theirs.Add(1); go discard(c) })
			for range 400 {
				dialPlain(t, net.JoinHostPort(row.target, port))
			}
			await(t, "all connections are accepted", func() bool { return ours.Load()+theirs.Load() == 400 })
			if n := theirs.Load(); n != row.joinerGets {
				t.Errorf("the joiner got %d of 400 connections, want %d", n, row.joinerGets)
			}
		})
	}
}

// TestGuardSurvivesRestartAndHandles: the guard's program on a port is not in the way of a
// second handle, nor of the listener after a restart.
func TestGuardSurvivesRestartAndHandles(t *testing.T) {
	addr := tcpMultiaddr(ownIP(), ownPort())
	for range 20 {
		var tr reuseport.Transport
		one := listen(t, &tr, addr.String())
		two := listen(t, &tr, addr.String())
		one.Close()
		c := dialPlain(t, two.Addr().String())
		accept(t, two)
		c.Close()
		two.Close()
	}
}

// TestNothingLostWhileListening: while listeners open, one beside another, whoever gets a
// connection is served.
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
	acceptEach(l.Accept, func(c manet.Conn) {
		served.Add(1)
		c.Write([]byte("x"))
		go discard(c)
	})
}

// TestWrapStaysExclusive: a listener that was made without SO_REUSEPORT is as exclusive as one of ours
// once it is wrapped, and dials leave from its port. One that was made with it stays shared.
func TestWrapStaysExclusive(t *testing.T) {
	for _, row := range []struct {
		address, target string
		multipath       bool
		control         func(string, string, syscall.RawConn) error
		shared          bool
	}{
		{"127.0.0.1:0", "127.0.0.1", false, nil, false}, {"127.0.0.1:0", "127.0.0.1", true, nil, false},
		{":0", "127.0.0.1", false, nil, false}, {":0", "::1", true, nil, false},
		{"127.0.0.1:0", "127.0.0.1", false, bindToLoopback, false}, {":0", "::1", false, bindToLoopback, false},
		{"127.0.0.1:0", "127.0.0.1", false, goreuseport.Control, true},
	} {
		lc := net.ListenConfig{Control: row.control}
		lc.SetMultipathTCP(row.multipath)
		wrapped, err := lc.Listen(t.Context(), "tcp", row.address)
		if err != nil {
			t.Fatal(err)
		}
		var tr reuseport.Transport
		l, err := tr.WrapListener(wrapped.(*net.TCPListener))
		if err != nil {
			t.Fatal(err)
		}
		var ours, theirs atomic.Int32
		go countAccepts(l, &ours)
		join := net.ListenConfig{Control: func(network, address string, c syscall.RawConn) (err error) {
			if row.control != nil {
				err = row.control(network, address, c)
			}
			return errors.Join(err, goreuseport.Control(network, address, c))
		}}
		joiner, err := join.Listen(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		go acceptEach(joiner.Accept, func(c net.Conn) { theirs.Add(1); go discard(c) })
		for range 400 {
			dialPlain(t, net.JoinHostPort(row.target, strconv.Itoa(portOf(l.Addr()))))
		}
		await(t, "all connections are accepted", func() bool { return ours.Load()+theirs.Load() == 400 })
		if n := theirs.Load(); (n > 0) != row.shared {
			t.Errorf("%s, %s, shared %t: the joiner got %d of 400 connections", row.address, row.target, row.shared, n)
		}
		c := dial(t, &tr, peer(t, "127.0.0.1:0"))
		if !c.Reused() {
			t.Errorf("%s, %s: not reused: %v", row.address, row.target, c.Cause())
		}
		c.Abort()
		joiner.Close()
		l.Close()
	}
}

// bindToLoopback binds a socket to the loopback interface.
func bindToLoopback(_, _ string, c syscall.RawConn) error {
	return withFD(c, func(fd int) error { return unix.BindToDevice(fd, "lo") })
}

// TestWrapUnderLoad: while a listener is wrapped no connection to it is lost.
func TestWrapUnderLoad(t *testing.T) {
	for range rounds(50, 10) {
		wrapped, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		stop := make(chan struct{})
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if err := askOnce(wrapped.Addr().String()); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		go acceptEach(wrapped.Accept, answerOne)
		time.Sleep(2 * time.Millisecond)
		var tr reuseport.Transport
		l, err := tr.WrapListener(wrapped.(*net.TCPListener))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
		close(stop)
		all.Wait()
		l.Close()
	}
}

// answerOne sends a byte to each connection and closes it.
func answerOne(c net.Conn) {
	c.Write([]byte("x")) // fails if the client is gone
	c.Close()
}

// askOnce connects, and reads a byte and EOF.
func askOnce(address string) error {
	c, err := net.DialTimeout("tcp4", address, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	got, err := io.ReadAll(c)
	if len(got) != 1 && err == nil {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// TestWrapInherited wraps a listener whose descriptor a parent process opened, as with socket
// activation: dials leave from its port, and what it accepts lingers zero.
func TestWrapInherited(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := inherit(t, l, peer(t, "127.0.0.1:0").String())
	if got, want := c.receive(t), fmt.Sprintf("reused from %v", l.Addr()); got != want {
		t.Errorf("the child says %q, want %q", got, want)
	}
	dialPlain(t, l.Addr().String())
	if got, want := c.receive(t), "accepted, linger true"; got != want {
		t.Errorf("the child says %q, want %q", got, want)
	}
}

// TestPrivilegedPortFallsBack: a process that inherits a listener on port 443 and may not bind
// that port dials from ephemeral ports, and the connections say why.
func TestPrivilegedPortFallsBack(t *testing.T) {
	l, err := net.Listen("tcp", netip.AddrPortFrom(ownIP(), 443).String())
	if errors.Is(err, os.ErrPermission) {
		skip(t, "only root may open port 443: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := inherit(t, l, peer(t, "127.0.0.1:0").String(), "nobody")
	if got, want := c.receive(t), "not reused: bind denied"; got != want {
		t.Errorf("the child says %q, want %q", got, want)
	}
}

// inherit starts a childInherit that gets a duplicate of l.
func inherit(t *testing.T, l net.Listener, args ...string) *child {
	t.Helper()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(os.Args[0], args...)
	cmd.ExtraFiles = []*os.File{f} // number 3 there
	return startCommand(t, "inherit", cmd)
}

// childInherit wraps the listener that it inherited, dials its argument, says from where, and
// accepts a connection. With "nobody" it gives up root first.
func childInherit(args []string) error {
	if len(args) > 1 {
		if err := syscall.Setuid(65534); err != nil {
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
