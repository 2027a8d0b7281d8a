package lab_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/lab"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	lab.Main(m, lab.Roles{
		"close": closeRole, "ours": ourPeer, "bare": barePeer, "libp2p": libp2pPeer, "denied": deniedPeer,
		"path": pathRole, "world": worldRole, "v4only": v4only, "unreached": unreached,
		"plain": plain, "fails": fails, "leaves": leaves, "breaks": breaks, "stubborn": stubborn,
	})
}

// plainDial asks a plain host for a connection.
type plainDial struct {
	From    string // local address; empty = the kernel's choice
	To      string
	Timeout time.Duration
}

// plain is a host on the kernel's TCP alone, without the transport: it tells
// each connection the address it came from.
func plain(p *lab.Process) error {
	lab.Handle(p, "listen", plainListen)
	lab.Handle(p, "observe", plainObserve)
	lab.Handle(p, "interfaces", interfaces)
	lab.Handle(p, "sysctl", readSysctl)
	lab.Handle(p, "sum", sumStream)
	lab.Handle(p, "stream", sendStream)
	lab.Handle(p, "flood", flood)
	return p.Serve()
}

func plainListen(ctx context.Context, addr string) (string, error) {
	lc := net.ListenConfig{Control: reuse}
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	go tellPeers(l)
	return l.Addr().String(), nil
}

func tellPeers(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go tellPeer(c)
	}
}

// tellPeer writes the address it sees and waits for the other side to close:
// closing first would free the 4-tuple with a reset where SO_LINGER is 0.
func tellPeer(c net.Conn) {
	defer c.Close()
	if _, err := c.Write([]byte(c.RemoteAddr().String())); err != nil {
		return
	}
	if half, ok := c.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, c) // until it closes, in whatever way
	}
}

// plainObserve dials and returns the address that the other side sees.
func plainObserve(ctx context.Context, d plainDial) (netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	dialer := net.Dialer{Control: reuse}
	if d.From != "" {
		local, err := net.ResolveTCPAddr("tcp", d.From)
		if err != nil {
			return netip.AddrPort{}, err
		}
		dialer.LocalAddr = local
	}
	c, err := dialer.DialContext(ctx, "tcp", d.To)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer c.Close()
	return readSeen(c)
}

// readSeen reads the address that tellPeers wrote.
func readSeen(c net.Conn) (netip.AddrPort, error) {
	b, err := io.ReadAll(c)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.ParseAddrPort(string(b))
}

func reuse(_, _ string, c syscall.RawConn) error {
	var err error
	if ctl := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		if err == nil {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}
	}); ctl != nil {
		return ctl
	}
	return err
}
