package libp2ptcp_test

import (
	"syscall"
	"testing"
)

func TestListenIsExclusive(t *testing.T) {
	_, a := peerSetup{}.transport(t)
	_, b := peerSetup{}.transport(t)
	addr := listen(t, a, "/ip4/127.0.0.1/tcp/0")
	_, err := b.Listen(addr)
	wantErr(t, err, syscall.EADDRINUSE)
}
