// Package libp2ptcp plugs a [reuseport.Transport] into go-libp2p hosts, in place
// of go-libp2p's own TCP transport:
//
//	h, err := libp2p.New(libp2p.NoTransports, libp2p.Transport(libp2ptcp.New))
//
// Dials leave from a port that the host listens on, listening is exclusive, a close
// delivers what was written, and hole punching (DCUtR) uses simultaneous open, only
// from the listening port.
//
// [New] has the parameters of go-libp2p's tcp.NewTCPTransport and takes its place.
// The README of this module says what changes for a host that moves from there.
package libp2ptcp
