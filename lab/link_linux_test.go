package lab_test

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/lab"
)

// A link that is down carries nothing. Once it is up it does again.
func TestLinkDown(t *testing.T) {
	t.Parallel()
	n := pair(t, lab.Wire{})
	listen(t, n, "s", ":7001")
	if err := n.SetLink("s", "wire", false); err != nil {
		t.Fatal(err)
	}
	if _, err := observe(t, n, "r", "", "192.0.0.81:7001"); err == nil {
		t.Error("reached a host whose link is down")
	}
	if err := n.SetLink("s", "wire", true); err != nil {
		t.Fatal(err)
	}
	var err error
	for range 20 { // the kernel remembers the failed neighbour look-up for 3 s
		if _, err = observe(t, n, "r", "", "192.0.0.81:7001"); !errors.Is(err, syscall.EHOSTUNREACH) {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	if err != nil {
		t.Errorf("link is up again: %v", err)
	}
}
