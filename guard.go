package reuseport

import (
	"errors"
	"net"
	"syscall"

	"github.com/reusetransport/reuseport/internal/sockopt"
)

// This file keeps later joiners out of a listener whose port dials have to bind.

// exclusive prepares a socket that is to listen exclusively. Without the guard the listener
// works too, so a missing guard is only logged.
func (t *Transport) exclusive(_, address string, c syscall.RawConn) error {
	if err := withFD(c, sockopt.SetExclusive); err != nil {
		return err
	}
	t.warnUnguarded(address, withFD(c, guard))
	return nil
}

// warnUnguarded logs that a listener has no guard, if err is why. It is silent where the
// system has no such guard.
func (t *Transport) warnUnguarded(laddr string, err error) {
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.log().Warn("listener has no guard against later joiners", "laddr", laddr, "err", err)
	}
}

// guard keeps later joiners out of a listener of ours. It makes the socket the first of a
// reuseport group while it is not yet bound, with a program that gives every connection to
// the first of the group, which is ours (Linux 4.5). Then it takes SO_REUSEPORT back, so
// that bind and listen are exclusive; the group stays. Once makeReusable has set the option
// again, a process of the same user can join and gets nothing, unless it brings its own
// program or listens on a more specific address (TestJoinerGetsNothing).
func guard(fd uintptr) error {
	return errors.Join(sockopt.SetReusePort(fd, true), sockopt.GiveToFirst(fd), sockopt.SetReusePort(fd, false))
}

// guardListening is guard for a socket that listens with SO_REUSEPORT already.
func guardListening(tcp *net.TCPListener) error {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	return withFD(raw, sockopt.GiveToFirst)
}

// guardWrapped is guard for a listener that somebody else bound without SO_REUSEPORT and that has the
// option now. Such a listener has no reuseport group, and cannot make one. A second socket that
// listens there for a moment, on the same network interface, makes the group, with the older
// listener as its first, and attaches the program. Meanwhile it drops the SYNs that it gets, which
// their peers repeat; without that it would reset those connections (TestWrapUnderLoad).
func guardWrapped(laddr listenAddr, raw syscall.RawConn) error {
	var index int
	err := withFD(raw, func(fd uintptr) (err error) {
		index, err = sockopt.BoundInterface(fd)
		return err
	})
	if err != nil {
		return err
	}
	prepare := func(_, _ string, c syscall.RawConn) error {
		return withFD(c, func(fd uintptr) error { return prepareJoiner(fd, index) })
	}
	joiner, err := listen(laddr, controlFunc(sockopt.SetReuse).then(prepare))
	if err != nil {
		return err
	}
	return errors.Join(guardListening(joiner), joiner.Close())
}

// prepareJoiner makes a socket drop what it gets, and binds it to an interface unless index is 0.
func prepareJoiner(fd uintptr, index int) error {
	err := sockopt.DropAll(fd)
	if err == nil && index != 0 {
		err = sockopt.BindToInterface(fd, index)
	}
	return err
}
