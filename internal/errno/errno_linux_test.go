package errno_test

import "syscall"

const first, second = syscall.EADDRINUSE, syscall.ECONNRESET

var rows = map[syscall.Errno][]string{
	syscall.EADDRINUSE:    {"IsAddrInUse"},
	syscall.EADDRNOTAVAIL: {"IsAddrNotAvail"},
	syscall.ECONNREFUSED:  {"IsRefused", "IsRejected"},
	syscall.ECONNRESET:    {"IsRejected", "AcceptHarmless"},
	syscall.EHOSTUNREACH:  {"IsRejected", "AcceptHarmless"},
	syscall.ENETUNREACH:   {"IsRejected", "AcceptHarmless"},
	syscall.EHOSTDOWN:     {"IsRejected", "AcceptHarmless"},
	syscall.ENOPROTOOPT:   {"IsRejected", "AcceptHarmless"},
	syscall.ETIMEDOUT:     {"IsTimedOut", "IsRejected"},
	syscall.EACCES:        {"IsRejected"},
	syscall.EPIPE:         {},
	syscall.ENOTCONN:      {"IsNotConnected"},
	syscall.EMFILE:        {"IsOutOfResources", "AcceptStarved"},
	syscall.ENFILE:        {"IsOutOfResources", "AcceptStarved"},
	syscall.ENOMEM:        {"IsOutOfResources", "AcceptStarved"},
	syscall.ENOBUFS:       {"IsOutOfResources", "AcceptStarved"},
	syscall.ENOSPC:        {"AcceptStarved"},
	syscall.EPERM:         {"AcceptStarved"},
	syscall.ECONNABORTED:  {"AcceptHarmless"},
	syscall.EPROTO:        {"AcceptHarmless"},
	syscall.EINTR:         {"AcceptHarmless"},
	syscall.ENETDOWN:      {"AcceptHarmless"},
	syscall.ENONET:        {"AcceptHarmless"},
	syscall.EBADF:         {"AcceptDead"},
	syscall.EINVAL:        {"AcceptDead"},
	syscall.ENOTSOCK:      {"AcceptDead"},
	syscall.EOPNOTSUPP:    {"AcceptDead"},
	syscall.EAGAIN:        nil,
	syscall.EFAULT:        nil,
}
