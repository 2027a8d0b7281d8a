//go:build !linux

package sourceaddr

import (
	"errors"
	"net/netip"
	"syscall"
)

// kept is empty: only Linux keeps sockets.
type kept struct{}

func (*kept) close() {}

// byTCP fails: only Linux can put the SYN off. Source then asks by UDP.
func (*Asker) byTCP(netip.AddrPort, func(string, string, syscall.RawConn) error) (netip.Addr, error) {
	return netip.Addr{}, errors.ErrUnsupported
}
