//go:build !linux

package serve

// traffic is not ok: these systems do not tell.
func (*conn) traffic() (traffic, bool) { return traffic{}, false }
