//go:build !linux

package serve_test

import "testing"

// withoutDescriptors runs f. On these systems a goroutine waits in any case.
func withoutDescriptors(_ *testing.T, f func()) { f() }
