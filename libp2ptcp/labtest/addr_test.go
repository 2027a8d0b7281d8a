package labtest

import (
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

func isLoopback(a ma.Multiaddr) bool { return manet.IsIPLoopback(a) }
