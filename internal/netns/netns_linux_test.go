package netns

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOthersShare: other goroutines are in the same namespace, unless the caller's thread has left
// for one of its own.
func TestOthersShare(t *testing.T) {
	if !OthersShare() {
		t.Error("in the namespace of the process: not shared")
	}
	denied := make(chan error)
	go func() {
		runtime.LockOSThread() // and no unlock: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil && OthersShare() {
			t.Error("in a namespace of its own: shared")
		}
		if !Here().IsShared() {
			t.Error("not shared with itself")
		}
		denied <- err
	}()
	if err := <-denied; err != nil {
		skip(t, "needs root: %v", err)
	}
}

// skip ends a test that this machine does not allow. In CI that is a failure.
func skip(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("CI must not skip: "+format, args...)
	}
	t.Skipf(format, args...)
}

// TestUnknownPlace: where nothing can be found out the namespace counts as shared.
func TestUnknownPlace(t *testing.T) {
	if !(Place{-1}).IsShared() {
		t.Error("a thread that is not there: not shared")
	}
}
