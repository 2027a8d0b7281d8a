//go:build linux || windows

package errno_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"testing"

	"github.com/reusetransport/reuseport/internal/errno"
)

var predicates = map[string]func(error) bool{
	"IsAddrInUse":      errno.IsAddrInUse,
	"IsAddrNotAvail":   errno.IsAddrNotAvail,
	"IsRefused":        errno.IsRefused,
	"IsTimedOut":       errno.IsTimedOut,
	"IsRejected":       errno.IsRejected,
	"IsNotConnected":   errno.IsNotConnected,
	"IsOutOfResources": errno.IsOutOfResources,
	"IsErrno":          errno.IsErrno,
	"AcceptHarmless":   errno.AcceptHarmless,
	"AcceptStarved":    errno.AcceptStarved,
	"AcceptDead":       errno.AcceptDead,
}

// wantTrue checks which predicates are true for err.
func wantTrue(t *testing.T, err error, names ...string) {
	t.Helper()
	for name, is := range predicates {
		if got, want := is(err), slices.Contains(names, name); got != want {
			t.Errorf("%s(%v) = %v, want %v", name, err, got, want)
		}
	}
}

// TestTable: rows has the predicates that are true for each number, and all others are
// false.
func TestTable(t *testing.T) {
	for n, names := range rows {
		names = append(names, "IsErrno")
		op := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", n)}
		for _, err := range []error{n, op, fmt.Errorf("w: %w", op), errors.Join(os.ErrDeadlineExceeded, op)} {
			wantTrue(t, err, names...)
		}
	}
}

func TestNoErrno(t *testing.T) {
	for _, err := range []error{nil, errors.New("address in use"), net.ErrClosed, os.ErrDeadlineExceeded} {
		wantTrue(t, err)
	}
}

// TestJoined: of several errors each counts, but for accept, which has one.
func TestJoined(t *testing.T) {
	err := errors.Join(first, second)
	if !errno.IsAddrInUse(err) || !errno.IsRejected(err) {
		t.Errorf("%v: in use %v, rejected %v, want both", err, errno.IsAddrInUse(err), errno.IsRejected(err))
	}
	if errno.AcceptHarmless(err) {
		t.Errorf("%v is harmless", err)
	}
}

func TestRealAddrInUse(t *testing.T) {
	l := listen(t)
	_, err := net.Listen("tcp4", l.Addr().String())
	wantTrue(t, err, "IsAddrInUse", "IsErrno")
}

func TestRealRefused(t *testing.T) {
	l := listen(t)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := net.Dial("tcp4", l.Addr().String())
	wantTrue(t, err, "IsRefused", "IsRejected", "IsErrno")
}

func TestRealBrokenPipe(t *testing.T) {
	c, err := net.Dial("tcp4", listen(t).Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_, err = c.Write([]byte("late"))
	wantTrue(t, err, "IsErrno")
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // only cleans up
	return l
}
