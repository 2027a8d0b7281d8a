//go:build !linux

package sourceaddr

import (
	"net"
	"net/netip"
)

// interfaces returns the interface of each address.
func interfaces(bool) (map[netip.Addr]string, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	all := make(map[netip.Addr]string)
	for _, i := range list {
		addrs, err := i.Addrs()
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				all[p.Addr().Unmap()] = i.Name
			}
		}
	}
	return all, nil
}
