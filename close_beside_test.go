//go:build !plan9

package reuseport_test

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"
)

// TestCloseBesideWriters: whatever writes beside Close returns net.ErrClosed, as with package
// net, and never the error of a socket that is shut down.
func TestCloseBesideWriters(t *testing.T) {
	file, source := endlessFile(t), endlessPeer(t)
	const size = 1 << 20
	for name, write := range map[string]func(c net.Conn) error{
		"Write a byte": func(c net.Conn) error { _, err := c.Write([]byte("x")); return err },
		"Write a lot":  func(c net.Conn) error { _, err := c.Write(pattern(size)); return err },
		"net.Buffers": func(c net.Conn) error {
			_, err := (&net.Buffers{pattern(size / 2), pattern(size / 2)}).WriteTo(c)
			return err
		},
		"sendfile": func(c net.Conn) error { _, err := file.Seek(0, io.SeekStart); return errors.Join(err, copyTo(c, file)) },
		"splice":   func(c net.Conn) error { return copyTo(c, source) },
		"io.Copy":  func(c net.Conn) error { return copyTo(c, struct{ io.Reader }{source}) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newClosePair(t, 0)
			for i := range rounds(200, 20) {
				closeBeside(t, p, time.Duration(i)*time.Microsecond, write)
			}
		})
	}
}

// closeBeside closes a connection a moment after write has begun to run again and again.
func closeBeside(t *testing.T, p *closePair, moment time.Duration, write func(net.Conn) error) {
	t.Helper()
	read := make(chan struct{})
	go func() { defer close(read); io.Copy(io.Discard, p.accepted) }()
	ended := make(chan error)
	go func(c net.Conn) {
		err := error(nil)
		for ; err == nil; runtime.Gosched() {
			err = write(c)
		}
		ended <- err
	}(p.dialed)
	time.Sleep(moment)
	if err := p.dialed.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Fatalf("after %v: %v", moment, err)
	}
	<-read
	p.accepted.Abort()
	p.connect(t)
}

func copyTo(c net.Conn, r io.Reader) error {
	_, err := io.Copy(c, r)
	return err
}

// endlessFile returns a file that is not read to its end soon.
func endlessFile(t *testing.T) *os.File {
	t.Helper()
	name := t.TempDir() + "/file"
	if err := os.WriteFile(name, pattern(8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// endlessPeer returns a connection whose peer sends without end.
func endlessPeer(t *testing.T) net.Conn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go acceptEach(l.Accept, func(c net.Conn) {
		defer c.Close()
		for err := error(nil); err == nil; {
			_, err = c.Write(pattern(1 << 20))
		}
	})
	return dialPlain(t, l.Addr().String())
}
