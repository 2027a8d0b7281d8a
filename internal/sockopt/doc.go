// Package sockopt has the system calls on sockets for which package net has no method.
// Each function makes one.
//
// A function makes one call and decides nothing. It returns the call's error
// as an *os.SyscallError, and errors.ErrUnsupported where a system cannot do it; what
// that means is for the caller to say. The caller keeps the descriptor open during the
// call, inside a syscall.RawConn's Control or by a duplicate of its own. The exceptions
// are options that are of use only together (SetReuse, SetKeepAlive), and BindOnce.
//
// The files, and which systems they are for:
//
//	sockopt_linux.go     Linux
//	sockopt_darwin.go    macOS and iOS
//	sockopt_bsd.go       FreeBSD, NetBSD, OpenBSD, DragonFly
//	sockopt_windows.go   Windows
//	sockopt_unix.go      what these Unix systems, Solaris and illumos have alike
//	sockopt_notlinux.go  stubs of what only Linux has
//	sockopt_noreuse.go   stubs for Solaris, illumos, and those of the next line
//	sockopt_nosocket.go  stubs for AIX, Plan 9, js and WASI
//
// Each system builds exactly one of linux, darwin, bsd, windows and noreuse, and
// exactly one of unix, windows and nosocket. Those files declare the same names.
//
// The tests run on Linux and macOS. The code for other systems is vetted and not run.
package sockopt

import "time"

// Traffic is what a connection has carried.
type Traffic struct {
	Received   bool // the peer has sent bytes, read or not, or its FIN
	Written    bool // we have written bytes
	AllSent    bool // all that was written has left
	Timestamps bool // both sides use TCP timestamps (RFC 7323)

	SinceSent time.Duration // since bytes last left, or since the handshake
	SinceACK  time.Duration // since the peer last acknowledged anything, old or new; the answer to a window probe counts
	PeerEnded bool          // the peer's FIN has come, or a reset
}
