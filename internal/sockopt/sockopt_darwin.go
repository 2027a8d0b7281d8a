package sockopt

import (
	"io"
	"os"
	"syscall"

	reuse "github.com/libp2p/go-reuseport"
	"golang.org/x/sys/unix"
)

// SetReuse lets a socket bind a port that others with the same options hold:
// SO_REUSEADDR and SO_REUSEPORT. It returns go-reuseport's error as it is.
func SetReuse(network, address string, c syscall.RawConn) error {
	return reuse.Control(network, address, c)
}

// SetReusePort sets or clears SO_REUSEPORT, and leaves SO_REUSEADDR alone.
func SetReusePort(fd uintptr, on bool) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, boolInt(on)))
}

// FINUnacked is what Unacked counts for a FIN that is not acknowledged.
const FINUnacked = 1

// Unacked returns how many bytes were written and not acknowledged, and one for a FIN:
// TCP_CONNECTION_INFO, since macOS 10.11.
func Unacked(fd uintptr) (int, error) {
	info, err := unix.GetsockoptTCPConnectionInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_CONNECTION_INFO)
	if err != nil {
		return 0, os.NewSyscallError("getsockopt", err)
	}
	n := int(info.Snd_sbbytes)
	switch info.State {
	case tcpsFinWait1, tcpsClosing, tcpsLastAck:
		n += FINUnacked
	}
	return n, nil
}

// States of <netinet/tcp_fsm.h> in which a FIN of ours is not acknowledged.
const (
	tcpsFinWait1 = 6
	tcpsClosing  = 7
	tcpsLastAck  = 8
)

// HasUnread reports whether the peer has sent bytes that nobody has read.
func HasUnread(fd uintptr) (bool, error) {
	var one [1]byte
	n, err := recv(fd, one[:], unix.MSG_PEEK)
	if err == io.EOF {
		return false, nil
	}
	return n > 0, err
}
