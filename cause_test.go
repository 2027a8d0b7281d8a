//go:build unix

package reuseport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
)

// syscallError is the error of a dial as package net makes it.
func syscallError(call string, errno syscall.Errno) error {
	return &net.OpError{Op: "dial", Err: os.NewSyscallError(call, errno)}
}

// TestLocalFault: an error of bind and a taken 4-tuple are faults of the local address. What the
// peer or the network answers is not.
func TestLocalFault(t *testing.T) {
	for _, row := range []struct {
		err  error
		want Cause
	}{
		{nil, NoCause},
		{syscallError("connect", syscall.ECONNREFUSED), NoCause},
		{syscallError("connect", syscall.EHOSTUNREACH), NoCause},
		{syscallError("connect", syscall.EACCES), NoCause},
		{syscallError("socket", syscall.EMFILE), NoCause},
		{&net.OpError{Op: "dial", Err: context.DeadlineExceeded}, NoCause},
		{syscallError("connect", syscall.EADDRNOTAVAIL), TupleInUse}, // Linux
		{syscallError("connect", syscall.EADDRINUSE), TupleInUse},    // other systems
		{syscallError("bind", syscall.EADDRINUSE), BindConflict},
		{syscallError("bind", syscall.EACCES), BindDenied},
		{syscallError("bind", syscall.EADDRNOTAVAIL), AddrGone},
		{syscallError("bind", syscall.EINVAL), AddrGone},
		{errors.Join(&net.OpError{Op: "dial", Err: errSelfConnection}, nil), SelfConnection},
		{&net.OpError{Op: "dial", Err: errPathSilent}, PathSilent},
		{&net.OpError{Op: "dial", Err: fmt.Errorf("%w: %w", errNoReuseOption, errors.ErrUnsupported)}, NoListener},
	} {
		if got := localFault(row.err); got != row.want {
			t.Errorf("localFault(%v) = %v, want %v", row.err, got, row.want)
		}
	}
}

// TestCauseString: each cause has its own words, and a value that is no cause shows its number.
func TestCauseString(t *testing.T) {
	seen := make(map[string]Cause)
	for c := range causes {
		s := c.String()
		if other, twice := seen[s]; twice || s == "" {
			t.Errorf("causes %d and %d are both %q", other, c, s)
		}
		seen[s] = c
	}
	if got := causes.String(); got != "Cause(11)" {
		t.Errorf("%q, want Cause(11)", got)
	}
}
