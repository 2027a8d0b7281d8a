//go:build !linux

package serve_test

import "testing"

// withoutDescriptors runs f: a goroutine waits in any case here.
func withoutDescriptors(_ *testing.T, f func()) { f() }
