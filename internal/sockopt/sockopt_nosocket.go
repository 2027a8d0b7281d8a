//go:build (!unix && !windows) || aix

package sockopt

import (
	"errors"
	"net/netip"
)

// SetExclusive does nothing: a plain bind is exclusive here.
func SetExclusive(fd uintptr) error { return nil }

// SetLinger fails.
func SetLinger(fd uintptr, reset bool) error { return errors.ErrUnsupported }

// V6Only fails.
func V6Only(fd uintptr) (bool, error) { return false, errors.ErrUnsupported }

// Local fails.
func Local(fd uintptr) (netip.AddrPort, error) { return netip.AddrPort{}, errors.ErrUnsupported }

// Peer fails.
func Peer(fd uintptr) (netip.AddrPort, error) { return netip.AddrPort{}, errors.ErrUnsupported }

// Discard fails.
func Discard(fd uintptr, buf []byte) (int, error) { return 0, errors.ErrUnsupported }

// ShutdownWrite fails.
func ShutdownWrite(fd uintptr) error { return errors.ErrUnsupported }

// Dup fails.
func Dup(fd uintptr) (uintptr, error) { return 0, errors.ErrUnsupported }

// Close fails.
func Close(fd uintptr) error { return errors.ErrUnsupported }

// DescriptorLimit fails.
func DescriptorLimit() (uint64, error) { return 0, errors.ErrUnsupported }
