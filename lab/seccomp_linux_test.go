package lab_test

import (
	"context"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport/lab"
)

// deniedPeer is ourPeer on a system that denies netlink, as Android does.
func deniedPeer(p *lab.Process) error {
	if err := deny(unix.AF_NETLINK, unix.EACCES); err != nil {
		return err
	}
	return newOurs().serve(p)
}

// With netlink denied, the choice of the port stays the same. net.Interfaces, which
// needs netlink, shows that it is denied.
func TestNetlinkDenied(t *testing.T) {
	t.Parallel()
	n := twoNetworks(t, "denied")
	if _, err := lab.Call[[]string](context.Background(), n, "h", "interfaces", struct{}{}); !errors.Is(err, unix.EACCES) {
		t.Fatalf("net.Interfaces: %v, want EACCES", err)
	}
	for name, pick := range families() {
		listenOnBoth(t, n, pick)
		wantFrom(t, n, name+" east", dialTo{Addr: pick(eastV4, eastV6)}, pick("10.1.0.1:4001", "[fd01::1]:4001"))
		wantFrom(t, n, name+" west", dialTo{Addr: pick(westV4, westV6)}, pick("10.2.0.1:4002", "[fd02::1]:4002"))
	}
}
