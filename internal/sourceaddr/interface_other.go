//go:build !linux

package sourceaddr

import (
	"net"
	"net/netip"
)

// interfaces returns the link of each address.
func interfaces(bool) (map[netip.Addr]link, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	all := make(map[netip.Addr]link)
	for _, i := range list {
		addrs, err := i.Addrs()
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				all[p.Addr().Unmap()] = link{i.Name, p.Bits()}
			}
		}
	}
	return all, nil
}
