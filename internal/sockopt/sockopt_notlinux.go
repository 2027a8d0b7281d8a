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

// NetKeepAlive is for the KeepAlive field of net.Dialer and net.ListenConfig. It tells
// package net to set its keep-alive on each connection.
const NetKeepAlive time.Duration = 0

// SetKeepAlive fails: package net does it.
func SetKeepAlive(fd uintptr) error { return errors.ErrUnsupported }

// discardFlag: no other Unix drops bytes without copying them.
const discardFlag = 0

// TrafficOf fails: each of these systems reports it in its own way, if at all.
func TrafficOf(fd uintptr) (Traffic, error) { return Traffic{}, errors.ErrUnsupported }

// Owner fails: only of Linux is it known which user counts.
func Owner(fd uintptr) (uid uint32, err error) { return 0, errors.ErrUnsupported }

// FINSent fails: these systems do not tell.
func FINSent(fd uintptr) (bool, error) { return false, errors.ErrUnsupported }

// LimitSYNs fails: only Linux has such an option.
func LimitSYNs(fd uintptr) error { return errors.ErrUnsupported }

// BoundedFor is 0: no connect lasts so long.
const BoundedFor time.Duration = 0

// GiveToFirst fails: these systems have no such program that needs no privilege.
func GiveToFirst(fd uintptr) error { return errors.ErrUnsupported }

// DropAll fails: it is of use only together with GiveToFirst.
func DropAll(fd uintptr) error { return errors.ErrUnsupported }

// SharesPort fails: it is of use only together with GiveToFirst.
func SharesPort(fd uintptr) (bool, error) { return false, errors.ErrUnsupported }

// BoundInterface fails: it is of use only together with GiveToFirst.
func BoundInterface(fd uintptr) (int, error) { return 0, errors.ErrUnsupported }

// BindToInterface fails: it is of use only together with GiveToFirst.
func BindToInterface(fd uintptr, index int) error { return errors.ErrUnsupported }

// BindOnce fails: only Linux's bind remembers an address.
func BindOnce(port uint16) error { return errors.ErrUnsupported }
