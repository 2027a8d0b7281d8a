//go:build !linux && !plan9

package reuseport_test

import (
	"errors"
	"testing"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/reusetransport/reuseport"
)

// fullListener is Linux's way of dropping SYNs on loopback.
func fullListener(t testing.TB) ma.Multiaddr {
	t.Skip("needs a full accept queue that drops SYNs, as on Linux")
	return nil
}

func setUser(int) error { return errors.ErrUnsupported }

func lingersZero(*reuseport.Conn) (bool, error) { return false, errors.ErrUnsupported }
