package lab_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport/lab"
)

// deniedPeer is ourPeer on a system that denies netlink, as Android does.
func deniedPeer(p *lab.Process) error {
	if err := deny(unix.AF_NETLINK, unix.EACCES); err != nil {
		return err
	}
	return newOurs().serve(p)
}

// Offsets in struct seccomp_data; the argument's low half on little-endian
// systems, which all that Android runs on are.
const (
	seccompNr   = 0
	seccompArg0 = 16
)

// deny makes socket fail for a family, in all threads.
func deny(family uint32, with unix.Errno) error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: seccompNr},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SOCKET, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: seccompArg0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: family, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(with)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}

// Netlink denied, the choice of the port is the same. That it is denied shows in
// net.Interfaces, which needs it.
func TestNetlinkDenied(t *testing.T) {
	t.Parallel()
	n := twoNetworks(t, "denied")
	if _, err := lab.Call[[]string](context.Background(), n, "h", "interfaces", struct{}{}); !errors.Is(err, unix.EACCES) {
		t.Fatalf("net.Interfaces: %v, want EACCES", err)
	}
	for name, pick := range families() {
		listenOnBoth(t, n, pick)
		wantFrom(t, n, name+" east", dialTo{Addr: pick(eastV4, eastV6)}, pick("10.1.0.1:4001", "[fd01::1]:4001"))
		wantFrom(t, n, name+" west", dialTo{Addr: pick(westV4, westV6)}, pick("10.2.0.1:4002", "[fd02::1]:4002"))
	}
}
