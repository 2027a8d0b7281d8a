package sockopt

import (
	"errors"
	"os"
	"syscall"
	"time"
	"unsafe"

	reuse "github.com/libp2p/go-reuseport"
	"golang.org/x/sys/unix"
)

// SetReuse lets a socket bind a port that others with the same options hold:
// SO_REUSEADDR and SO_REUSEPORT. It returns go-reuseport's error as it is.
func SetReuse(network, address string, c syscall.RawConn) error {
	return reuse.Control(network, address, c)
}

// SetReuseToDial is SetReuse for a socket that dials. It allocates nothing, and therefore
// does not return the errors of the options. They are not needed: if an option was not set,
// bind fails before any SYN has left.
func SetReuseToDial(_, _ string, c syscall.RawConn) error { return c.Control(reuseOptions) }

func reuseOptions(fd uintptr) {
	_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
}

// SetReusePort sets or clears SO_REUSEPORT, and leaves SO_REUSEADDR alone.
func SetReusePort(fd uintptr, on bool) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, boolInt(on)))
}

// NetKeepAlive is for the KeepAlive field of net.Dialer and net.ListenConfig. It tells
// package net not to set keep-alive, because SetKeepAlive does.
const NetKeepAlive time.Duration = -1

// SetKeepAlive sets what package net sets: a probe after 15 s, then one every 15 s, 9 in
// all. One visit to the descriptor takes less time than package net's four. SO_KEEPALIVE
// comes last, or the kernel would set its timer twice.
func SetKeepAlive(fd uintptr) error {
	return os.NewSyscallError("setsockopt", errors.Join(
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15),
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15),
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9),
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)))
}

// FINUnacked is what Unacked counts for a FIN that is not acknowledged.
const FINUnacked = 1

// Unacked returns how many bytes were written and not acknowledged (SIOCOUTQ). It
// counts a FIN of ours as one byte (TestUnackedFIN).
func Unacked(fd uintptr) (int, error) { return ioctl(fd, unix.SIOCOUTQ) }

// HasUnread reports whether the peer has sent bytes that nobody has read (SIOCINQ).
func HasUnread(fd uintptr) (bool, error) {
	n, err := ioctl(fd, unix.SIOCINQ)
	return n > 0, err
}

// TrafficOf returns what a connection has carried (TCP_INFO, Linux 4.6). The peer's FIN counts
// as received.
func TrafficOf(fd uintptr) (Traffic, error) {
	var info unix.TCPInfo
	if err := tcpInfo(fd, &info); err != nil {
		return Traffic{}, os.NewSyscallError("getsockopt", err)
	}
	const withTimestamps = 1 // TCPI_OPT_TIMESTAMPS of <linux/tcp.h>
	return Traffic{
		Received:   info.Bytes_received > 0,
		Written:    info.Data_segs_out > 0 || info.Notsent_bytes > 0,
		AllSent:    info.Notsent_bytes == 0,
		Timestamps: info.Options&withTimestamps != 0,

		SinceSent: time.Duration(info.Last_data_sent) * time.Millisecond,
		SinceACK:  time.Duration(info.Last_ack_recv) * time.Millisecond,
		PeerEnded: peerEnded(info.State),
	}, nil
}

// tcpInfo is unix.GetsockoptTCPInfo without its 248 bytes of heap, which a server would spend on
// each connection that it closes. The system call of its own is as old as Linux 4.3 on 386 and
// s390x.
func tcpInfo(fd uintptr, info *unix.TCPInfo) error {
	size := uint32(unix.SizeofTCPInfo)
	_, _, err := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.IPPROTO_TCP, unix.TCP_INFO,
		uintptr(unsafe.Pointer(info)), uintptr(unsafe.Pointer(&size)), 0)
	switch err {
	case 0:
		return nil
	case unix.ENOSYS:
		old, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			*info = *old
		}
		return err
	}
	return err
}

// peerEnded reports whether a connection is in a state that the peer's FIN or reset leads to
// (<net/tcp_states.h>).
func peerEnded(state uint8) bool {
	const timeWait, closed, closeWait, lastACK, closing = 6, 7, 8, 9, 11
	switch state {
	case timeWait, closed, closeWait, lastACK, closing:
		return true
	}
	return false
}

// Owner returns the user whose sockets may share the port of this one by SO_REUSEPORT: the one
// that made it, or to whom fchown gave it.
func Owner(fd uintptr) (uid uint32, err error) {
	var s unix.Stat_t
	if err := unix.Fstat(int(fd), &s); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	return s.Uid, nil
}

// FINSent reports whether all that was written has left, and a FIN of ours with it
// (SIOCOUTQNSD). A FIN waits behind a window that is shut (TestFINSent).
func FINSent(fd uintptr) (bool, error) {
	n, err := ioctl(fd, unix.SIOCOUTQNSD)
	return err == nil && n == 0, err
}

// ioctl reads a count. The kernel writes 32 bits, which unix.IoctlGetInt reads wrongly on a
// 64-bit big-endian system.
func ioctl(fd uintptr, request uint) (int, error) {
	n, err := unix.IoctlGetUint32(int(fd), request)
	return int(n), os.NewSyscallError("ioctl", err)
}

// discardFlag makes recv drop the bytes without copying them (tcp(7), since Linux 2.4).
const discardFlag = unix.MSG_TRUNC

// LimitSYNs makes connect give up with ETIMEDOUT after BoundedFor (TCP_SYNCNT 1, the least
// there is). Until then it sends three SYNs, or two before Linux 6.5, which repeats more slowly.
func LimitSYNs(fd uintptr) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_SYNCNT, 1))
}

// BoundedFor is how long a connect with LimitSYNs lasts, to some hundredths of a second: 1 s +
// 2 s (RFC 6298), or 1 s three times where the first repeats come at equal distances
// (tcp_syn_linear_timeouts, Linux 6.5). That is when the next SYN would leave.
const BoundedFor = 3050 * time.Millisecond

// GiveToFirst attaches a program to the reuseport group of a socket that gives every
// connection to the first of the group (Linux 4.5). On a socket that is not yet bound it
// makes the group, with that socket as the first. SO_REUSEPORT must be set before the call,
// and may be cleared after it.
func GiveToFirst(fd uintptr) error {
	ret := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0} // the first is number 0; unprivileged
	prog := unix.SockFprog{Len: 1, Filter: &ret}
	return os.NewSyscallError("setsockopt", unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &prog))
}

// DropAll makes the kernel drop each segment that a socket is to receive (SO_ATTACH_FILTER). A
// peer repeats what was dropped.
func DropAll(fd uintptr) error {
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0} // of each segment 0 bytes pass
	prog := unix.SockFprog{Len: 1, Filter: &drop}
	return os.NewSyscallError("setsockopt", unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog))
}

// SharesPort reports whether SO_REUSEPORT is set.
func SharesPort(fd uintptr) (bool, error) {
	on, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT)
	return on != 0, os.NewSyscallError("getsockopt", err)
}

// BoundInterface returns the index of the network interface that a socket is bound to, or 0
// (SO_BINDTOIFINDEX, Linux 5.0).
func BoundInterface(fd uintptr) (int, error) {
	index, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	return index, os.NewSyscallError("getsockopt", err)
}

// BindToInterface binds a socket to a network interface (SO_BINDTOIFINDEX). Before Linux 5.7 it
// takes CAP_NET_RAW.
func BindToInterface(fd uintptr, index int) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, index))
}

// BindOnce makes bind on a port of ours cost the same however many connections live on
// it. If the first owner of a port bound without SO_REUSEPORT, the kernel remembers for
// the port one address that is free of conflicts, and walks all owners for any other: two
// sources in turn would each walk thousands. BindOnce binds a throwaway socket to the
// wildcard, which the kernel then remembers for all addresses. It fails with EADDRINUSE if
// a stranger holds the port on some other address.
//
// It makes several calls because its socket is of no use to the caller.
func BindOnce(port uint16) error {
	err := bindOnce(unix.AF_INET6, &unix.SockaddrInet6{Port: int(port)})
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) { // no IPv6
		return bindOnce(unix.AF_INET, &unix.SockaddrInet4{Port: int(port)})
	}
	return err
}

// bindOnce binds a socket with SetReuse's options, dual-stack if it is an IPv6 one, and
// closes it.
func bindOnce(family int, sa unix.Sockaddr) error {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd) // nothing was sent that a failed close could lose
	if family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	}
	err = errors.Join(err,
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	if err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	return os.NewSyscallError("bind", unix.Bind(fd, sa))
}
