//go:build !linux

package sockopt

import (
	"errors"
	"syscall"
	"time"
)

// SetReuseToDial is SetReuse for a socket that dials.
func SetReuseToDial(network, address string, c syscall.RawConn) error {
	return SetReuse(network, address, c)
}

// NetKeepAlive is for the KeepAlive field of net.Dialer and net.ListenConfig: package
// net sets its keep-alive on each connection.
const NetKeepAlive time.Duration = 0

// SetKeepAlive fails: package net does it.
func SetKeepAlive(fd uintptr) error { return errors.ErrUnsupported }

// discardFlag: no other Unix drops bytes without copying them.
const discardFlag = 0

// SinceACK fails: each of these systems tells in a way of its own, if at all.
func SinceACK(fd uintptr) (time.Duration, error) { return 0, errors.ErrUnsupported }

// Heard fails: each of these systems tells in a way of its own, if at all.
func Heard(fd uintptr) (spoken, timestamps bool, err error) {
	return false, false, errors.ErrUnsupported
}

// FINSent fails: these systems do not tell.
func FINSent(fd uintptr) (bool, error) { return false, errors.ErrUnsupported }

// GiveToFirst fails: these systems have no program for it that needs no privilege.
func GiveToFirst(fd uintptr) error { return errors.ErrUnsupported }

// BindOnce fails: it is for Linux, whose bind has a memory to be set right.
func BindOnce(port uint16) error { return errors.ErrUnsupported }
