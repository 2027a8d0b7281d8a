package reuseport

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// guard puts two safeguards on a listener of ours that just got SO_REUSEPORT, by
// letting a throwaway socket join its port and go:
//
//   - Joining makes the kernel note in the port's bind bucket that all its owners
//     share, so that bind no longer walks them: without it, alternating source
//     addresses make bind O(live connections on the port) (TestBindStaysFlat).
//   - The throwaway leaves a reuseport program behind that gives every connection
//     to the first socket of the group, which is ours (Linux 4.5). A process of the
//     same user that joins later with SO_REUSEPORT gets none, unless it brings its own
//     program or listens on a more specific address (TestJoinerGetsNothing).
//
// While the throwaway listens it drops all packets, so that no connection is queued
// on it and lost: a SYN of that moment is sent again after a second.
func guard(laddr listenAddr, control controlFunc) error {
	l, err := listen(laddr, control.then(setReuse).then(dropAll))
	if err != nil {
		return err
	}
	raw, err := l.SyscallConn()
	if err == nil {
		err = attachFilter(raw, unix.SO_ATTACH_REUSEPORT_CBPF)
	}
	return errors.Join(err, l.Close())
}

// dropAll makes a socket discard every packet.
func dropAll(network, address string, c syscall.RawConn) error {
	return attachFilter(c, unix.SO_ATTACH_FILTER)
}

// attachFilter attaches the classic BPF program "return 0". As a socket filter
// that keeps zero bytes of every packet; as a reuseport program it chooses the
// socket with index 0. Both are unprivileged.
func attachFilter(c syscall.RawConn, option int) error {
	ret := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	prog := unix.SockFprog{Len: 1, Filter: &ret}
	var opt error
	err := c.Control(func(fd uintptr) {
		opt = os.NewSyscallError("setsockopt", unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, option, &prog))
	})
	return errors.Join(err, opt)
}
