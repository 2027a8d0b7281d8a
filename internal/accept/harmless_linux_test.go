package accept_test

import (
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/reusetransport/reuseport/internal/accept"
)

// A system that repeats a harmless error for ever does not get a busy loop:
// 64 are skipped, the next one waits.
func TestHarmlessFloodWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []accept.Event
		b := &accept.Backoff{Notify: record(&events)}
		errs := make([]error, 131)
		for i := range 130 {
			errs[i] = opError(syscall.ECONNABORTED)
		}
		if _, err := accept.Next(b, nil, script(errs...)); err != nil {
			t.Fatal(err)
		}
		for i, e := range events {
			if wantWait := i == 64 || i == 129; e.Kind != accept.Harmless || (e.Wait > 0) != wantWait {
				t.Errorf("event %d: %v waits %v", i, e.Kind, e.Wait)
			}
		}
	})
}
