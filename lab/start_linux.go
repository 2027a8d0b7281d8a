package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
)

// startKeeper starts the keeper in namespaces of its own. Root uses plain ones; other
// users, and root without the right to make them, use a user namespace.
func startKeeper(in, out *os.File, pipes []*os.File, log io.Writer) (*exec.Cmd, error) {
	var err error
	for _, flags := range keeperFlags(os.Geteuid()) {
		cmd := reexec(envKind + "=" + kindKeeper)
		cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = in, out, log, pipes
		cmd.SysProcAttr = keeperAttr(flags)
		if err = cmd.Start(); err == nil {
			return cmd, nil
		}
	}
	if errors.Is(err, syscall.EINVAL) { // this kind of namespace does not exist
		err = errors.Join(err, syscall.ENOSYS)
	}
	return nil, fmt.Errorf("starting in new namespaces: %w", err)
}

// keeperFlags returns the sets of namespaces to try, best first.
func keeperFlags(euid int) []uintptr {
	const plain = syscall.CLONE_NEWNET | syscall.CLONE_NEWPID
	if euid != 0 {
		return []uintptr{plain | syscall.CLONE_NEWUSER}
	}
	return []uintptr{plain, plain | syscall.CLONE_NEWUSER}
}

func keeperAttr(flags uintptr) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: flags}
	if flags&syscall.CLONE_NEWUSER != 0 {
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// refusal marks the errors with which a kernel refuses namespaces or what they need:
// no permission, no quota, /proc/sys not writable, not compiled in.
func refusal(err error) error {
	for _, no := range []error{
		syscall.EPERM, syscall.EACCES, syscall.ENOSPC, syscall.EUSERS, syscall.EROFS, syscall.ENOSYS,
		syscall.EOPNOTSUPP, syscall.EPROTONOSUPPORT, syscall.EAFNOSUPPORT,
	} {
		if errors.Is(err, no) {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
	return err
}
