//go:build !plan9

package reuseport_test

import (
	"testing"

	"github.com/reusetransport/reuseport"
)

// TestAvailable: ports can be reused on the systems that these tests run on.
func TestAvailable(t *testing.T) {
	if !reuseport.Available() {
		skip(t, "the system has no port reuse")
	}
}
