//go:build !unix

package serve

import "syscall"

// waitReadable waits until the next Read of the connection would return at once. An
// error means that the connection was closed. (On Plan 9 and js connections have no
// RawConn, so this is not called.)
//
// Windows waits with a read of no bytes, which ends once there is input.
func waitReadable(raw syscall.RawConn) error {
	asked := false
	return raw.Read(func(uintptr) bool {
		was := asked
		asked = true
		return was
	})
}

// hasInput reports false: these systems cannot look without reading.
func hasInput(uintptr) bool { return false }
