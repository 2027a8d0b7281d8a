package lab_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport/lab"
)

// plainDial asks a plain host to dial.
type plainDial struct {
	From    string // local address; empty = the kernel's choice
	To      string
	Timeout time.Duration
}

// plain is a host that uses the kernel's TCP without the transport. It tells each
// connection the address it came from.
func plain(p *lab.Process) error {
	lab.Handle(p, "listen", plainListen)
	lab.Handle(p, "observe", plainObserve)
	lab.Handle(p, "interfaces", interfaces)
	lab.Handle(p, "sysctl", readSysctl)
	lab.Handle(p, "sum", sumStream)
	lab.Handle(p, "stream", sendStream)
	lab.Handle(p, "flood", flood)
	lab.Handle(p, "passed on", passedOn)
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

// tellPeer writes the address it sees and waits for the other side to close. If it
// closed first with SO_LINGER 0, it would free the 4-tuple with a reset.
func tellPeer(c net.Conn) {
	defer c.Close()
	if _, err := c.Write([]byte(c.RemoteAddr().String())); err != nil {
		return
	}
	if half, ok := c.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, c) // until it closes or resets
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

// readSeen reads the address that tellPeer wrote.
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

func interfaces(context.Context, struct{}) ([]string, error) {
	all, err := net.Interfaces()
	var names []string
	for _, i := range all {
		names = append(names, i.Name)
	}
	return names, err
}

func readSysctl(_ context.Context, name string) (string, error) {
	b, err := os.ReadFile(filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/")))
	return strings.TrimSpace(string(b)), err
}

// sumStream accepts one connection and returns the hash of what it reads.
func sumStream(ctx context.Context, addr string) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer l.Close()
	c, err := l.Accept()
	if err != nil {
		return "", err
	}
	defer c.Close()
	h := sha256.New()
	_, err = io.Copy(h, c)
	return hex.EncodeToString(h.Sum(nil)), err
}

// sendStream sends streamLen bytes and returns their hash.
func sendStream(ctx context.Context, addr string) (string, error) {
	c, err := dialPatiently(ctx, addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	h := sha256.New()
	random := rand.NewChaCha8([32]byte{1})
	_, err = io.CopyN(io.MultiWriter(c, h), random, streamLen)
	return hex.EncodeToString(h.Sum(nil)), err
}

const streamLen = 1 << 20

// dialPatiently dials until the listener is there.
func dialPatiently(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	for {
		c, err := d.DialContext(ctx, "tcp", addr)
		if err == nil || ctx.Err() != nil {
			return c, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// floodOf describes a flood.
type floodOf struct {
	To    string
	Count int
	Pause time.Duration // after each
}

// flood sends datagrams from a socket that ignores refusals. It pauses after each
// hundred, so that the buffer from which the wire reads them does not overflow.
func flood(_ context.Context, f floodOf) (struct{}, error) {
	to, err := net.ResolveUDPAddr("udp", f.To)
	if err != nil {
		return struct{}{}, err
	}
	c, err := net.ListenUDP("udp", nil)
	if err != nil {
		return struct{}{}, err
	}
	defer c.Close()
	for i := range f.Count {
		if _, err := c.WriteTo([]byte("a datagram"), to); err != nil {
			return struct{}{}, err
		}
		time.Sleep(f.Pause)
		if i%100 == 99 {
			time.Sleep(5 * time.Millisecond)
		}
	}
	return struct{}{}, nil
}

// passedOn returns those of the descriptors 3 to last that a program started here
// would inherit.
func passedOn(_ context.Context, last int) ([]int, error) {
	var all []int
	for fd := 3; fd <= last; fd++ {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC == 0 {
			all = append(all, fd)
		}
	}
	return all, nil
}
