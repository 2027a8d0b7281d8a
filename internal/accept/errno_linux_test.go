package accept_test

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport/internal/accept"
)

func opError(e syscall.Errno) error {
	return &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", e)}
}

func TestClassifyErrno(t *testing.T) {
	kinds := map[accept.Kind][]syscall.Errno{
		accept.Harmless: {
			syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EPROTO, syscall.EINTR, syscall.ENETDOWN,
			syscall.ENOPROTOOPT, syscall.EHOSTDOWN, syscall.ENONET, syscall.EHOSTUNREACH, syscall.ENETUNREACH,
		},
		accept.Starved: {syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ENOSPC, syscall.EPERM},
		accept.Dead:    {syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK, syscall.EOPNOTSUPP},
		accept.Unknown: {syscall.ETIMEDOUT, syscall.EFAULT},
	}
	for want, errnos := range kinds {
		for _, e := range errnos {
			for _, err := range []error{e, opError(e), fmt.Errorf("w: %w", opError(e))} {
				if got := accept.Classify(err); got != want {
					t.Errorf("Classify(%v) = %v, want %v", err, got, want)
				}
			}
		}
	}
}

// What the kernel of this machine says for a socket that stopped listening.
func TestClassifyShutDownListener(t *testing.T) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // only cleans up
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var errShut error
	if err := raw.Control(func(fd uintptr) { errShut = unix.Shutdown(int(fd), unix.SHUT_RDWR) }); err != nil || errShut != nil {
		t.Fatal(err, errShut)
	}
	if _, err := l.Accept(); accept.Classify(err) != accept.Dead {
		t.Errorf("%v is %v, want dead", err, accept.Classify(err))
	}
}
