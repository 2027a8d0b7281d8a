//go:build !linux

package reuseport

import (
	"errors"
	"net/netip"
)

// askers is Linux's.
type askers struct{}

func (*askers) close() {}

// sourceByTCP is Linux's way; elsewhere the caller asks by UDP.
func (t *Transport) sourceByTCP(raddr netip.AddrPort) (netip.Addr, error) {
	return netip.Addr{}, errors.ErrUnsupported
}
