package libp2ptcp_test

import (
	"testing"

	"github.com/reusetransport/reuseport"
)

// TestConnTellsPort asks a host's connection whether it reuses the port.
func TestConnTellsPort(t *testing.T) {
	a, b := newHost(t, ours()), newHost(t, stock())
	c := connect(t, a, b)
	var tcp *reuseport.Conn
	if !c.As(&tcp) || !tcp.Reused() {
		t.Errorf("As found %v, want a reused *reuseport.Conn", tcp)
	}
	if got, want := c.LocalMultiaddr(), a.Addrs()[0]; !got.Equal(want) {
		t.Errorf("dialed from %v, listens on %v", got, want)
	}
}
