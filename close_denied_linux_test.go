package reuseport_test

import (
	"errors"
	"fmt"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
)

// These tests deny system calls to their own process (seccomp), as sandboxes do.

// A deniedCall is a system call that fails with EPERM.
type deniedCall struct {
	number uint32
	args   map[int]uint32 // the arguments of the call that is meant; others pass
	try    func() error   // fails with EBADF where the call is not denied
}

var (
	deniedLinger = deniedCall{
		number: unix.SYS_SETSOCKOPT,
		args:   map[int]uint32{1: unix.SOL_SOCKET, 2: unix.SO_LINGER},
		try:    func() error { return unix.SetsockoptLinger(-1, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{}) },
	}
	deniedShutdown = deniedCall{
		number: unix.SYS_SHUTDOWN,
		try:    func() error { return unix.Shutdown(-1, unix.SHUT_WR) },
	}
)

// deny denies the call to this process until it ends. It skips the test where that fails: some
// systems have other numbers for the call, or put the halves of an argument in another order.
func (d deniedCall) deny(t *testing.T) {
	t.Helper()
	if err := d.try(); !errors.Is(err, unix.EBADF) {
		t.Fatal("before it is denied: ", err)
	}
	if err := filterCalls(d.program()); err != nil {
		skip(t, "no seccomp: %v", err)
	}
	if err := d.try(); !errors.Is(err, unix.EPERM) {
		skip(t, "the call is not denied: %v", err)
	}
}

// program returns a filter for struct seccomp_data: each check that fails lets the call pass.
func (d deniedCall) program() []unix.SockFilter {
	const numberAt, argsAt, argSize = 0, 16, 8
	filter := equals(numberAt, d.number)
	for i, want := range d.args {
		filter = append(filter, equals(uint32(argsAt+i*argSize), want)...)
	}
	return append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)})
}

// equals compares the 32 bits at an offset.
func equals(offset, want uint32) []unix.SockFilter {
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: want, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
}

// filterCalls makes a filter decide about each system call of this process.
func filterCalls(filter []unix.SockFilter) error {
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	_, _, err := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if err != 0 {
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}

// TestLingerDenied: where SO_LINGER cannot be set, dials and accepts work, and Close delivers.
func TestLingerDenied(t *testing.T) {
	if apart(t) {
		deniedLinger.deny(t)
		closeWhereDenied(t)
	}
}

// TestShutdownDenied: where shutdown(2) is denied, Close sends the FIN all the same.
func TestShutdownDenied(t *testing.T) {
	if apart(t) {
		deniedShutdown.deny(t)
		closeWhereDenied(t)
	}
}

// closeWhereDenied checks that peers see what they see after package net's close.
func closeWhereDenied(t *testing.T) {
	t.Helper()
	for _, size := range []int{0, 64 << 10} {
		want := viewsAfterNet(t, size)
		g := newClosing(t, &reuseport.Transport{FlushTimeout: time.Minute})
		g.addMany(t, size)
		g.closeAll(t)
		g.wantViews(t, want)
	}
}
