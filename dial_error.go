package reuseport

import (
	"errors"
	"fmt"
	"net"
	"strings"
)

// A DialError is the error of a dial that failed in more than one way: from several local
// addresses, to several addresses of a name, or twice because it was hedged. A dial that
// failed in one way returns that error alone.
//
// It is a net.Error. errors.Is and errors.As look at every failure, the first one first.
type DialError struct{ errs []error }

var _ net.Error = (*DialError)(nil)

// shownErrors is how many failures Error spells out.
const shownErrors = 4

// Error returns one line. Of more than four failures it has the first four and the number
// of the others.
func (e *DialError) Error() string {
	var line strings.Builder
	for i, err := range e.errs[:min(len(e.errs), shownErrors)] {
		if i > 0 {
			line.WriteString("; ")
		}
		line.WriteString(err.Error())
	}
	if more := len(e.errs) - shownErrors; more > 0 {
		fmt.Fprintf(&line, "; and %d more", more)
	}
	return line.String()
}

// Unwrap returns all failures, the first one first. It belongs to e.
func (e *DialError) Unwrap() []error { return e.errs }

// Timeout reports whether any of the failures is a timeout, as net.Error's Timeout does.
func (e *DialError) Timeout() bool {
	for _, err := range e.errs {
		if timeout, ok := errors.AsType[interface {
			error
			Timeout() bool
		}](err); ok && timeout.Timeout() {
			return true
		}
	}
	return false
}

// Temporary returns Timeout(). net.Error requires it.
func (e *DialError) Temporary() bool { return e.Timeout() }

// failures returns the error of a dial that failed in all these ways: nil, the only error
// unchanged, or a *DialError, which holds no other.
func failures(errs ...error) error {
	var flat []error
	for _, err := range errs {
		if several, ok := err.(*DialError); ok {
			flat = append(flat, several.errs...)
		} else if err != nil {
			flat = append(flat, err)
		}
	}
	switch len(flat) {
	case 0:
		return nil
	case 1:
		return flat[0]
	}
	return &DialError{flat}
}
