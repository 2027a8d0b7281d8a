package lab_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/reusetransport/reuseport/lab"
)

// What a plain host can do besides dialing and listening.

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

// sumStream accepts one connection and returns the hash of what came.
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

// dialPatiently waits for the listener to be there.
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

// floodOf is so many datagrams.
type floodOf struct {
	To    string
	Count int
	Pause time.Duration // after each
}

// flood sends datagrams from a socket that does not mind being refused. Without
// a pause it takes a breath after a hundred: the wire takes them from a socket
// buffer that would overflow.
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

// fails, leaves and the like are roles that do not do what they should.

func fails(*lab.Process) error { return os.ErrPermission }

func leaves(*lab.Process) error {
	os.Exit(0)
	return nil
}

// breaks fails only when the test is over.
func breaks(p *lab.Process) error {
	if err := p.Serve(); err != nil {
		return err
	}
	return os.ErrDeadlineExceeded
}

// stubborn does not end when its test does.
func stubborn(p *lab.Process) error {
	go func() { _ = p.Serve() }() // says that it is ready; how it ends is the point
	select {}
}
