//go:build !unix

package serve

import "syscall"

// waitReadable waits until a Read of the connection would not wait. The error
// says that the connection was closed. (Plan 9 and js have no RawConn, and so do
// not get here.)
//
// Windows waits with a read of no bytes, which ends at once if there is input.
func waitReadable(raw syscall.RawConn) error {
	asked := false
	return raw.Read(func(uintptr) bool {
		was := asked
		asked = true
		return was
	})
}

// hasInput is not known here.
func hasInput(uintptr) bool { return false }
