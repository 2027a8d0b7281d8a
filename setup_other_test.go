//go:build !linux && !plan9

package reuseport_test

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
)

// linuxRoles: none elsewhere.
var linuxRoles map[string]role

// silentListener returns the address of a listener whose accept queue is full. It skips the
// test on systems that answer a SYN then.
func silentListener(t testing.TB) ma.Multiaddr {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	for range 5000 { // more than any queue holds
		c, err := net.DialTimeout("tcp4", l.Addr().String(), 200*time.Millisecond)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return tcpMultiaddr(localhost, uint16(portOf(l.Addr())))
		}
		if err != nil {
			t.Skip("a full accept queue is told the dialer: ", err)
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Skip("a full accept queue drops no SYN")
	return nil
}
