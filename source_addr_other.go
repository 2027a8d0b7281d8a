//go:build !linux

package reuseport

import (
	"errors"
	"net/netip"
)

// sourceByTCP is Linux's way; elsewhere the caller asks by UDP.
func sourceByTCP(raddr netip.AddrPort, control controlFunc) (netip.Addr, error) {
	return netip.Addr{}, errors.ErrUnsupported
}
