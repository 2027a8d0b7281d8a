package reuseport

import (
	"errors"
	"os"
	"slices"
	"testing"
)

// TestFailures: one failure stays what it is, and several are one flat *DialError.
func TestFailures(t *testing.T) {
	one, two, three := errors.New("one"), errors.New("two"), errors.New("three")
	if err := failures(nil, nil); err != nil {
		t.Errorf("%v, want nil", err)
	}
	if err := failures(nil, one); err != one {
		t.Errorf("%#v, want it unchanged", err)
	}
	err := failures(failures(one, two), nil, three)
	var several *DialError
	if !errors.As(err, &several) || !slices.Equal(several.Unwrap(), []error{one, two, three}) || err.Error() != "one; two; three" {
		t.Errorf("%#v", err)
	}
}

// TestDialErrorTimeout: one timeout among the failures makes the whole a timeout.
func TestDialErrorTimeout(t *testing.T) {
	plain := errors.New("plain")
	for _, row := range []struct {
		err  error
		want bool
	}{{failures(plain, plain), false}, {failures(plain, os.ErrDeadlineExceeded), true}, {failures(os.ErrDeadlineExceeded, plain), true}} {
		several := row.err.(*DialError)
		if several.Timeout() != row.want || several.Temporary() != row.want || os.IsTimeout(several) != row.want {
			t.Errorf("%v: timeout %v, want %v", several, several.Timeout(), row.want)
		}
	}
}
