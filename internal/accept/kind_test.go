package accept_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/internal/accept"
)

type foreignError struct{ temporary bool }

func (foreignError) Error() string     { return "foreign" }
func (e foreignError) Temporary() bool { return e.temporary }
func (foreignError) Timeout() bool     { return false }

func TestClassify(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want accept.Kind
	}{
		{nil, accept.Unknown},
		{errors.New("anything"), accept.Unknown},
		{os.ErrDeadlineExceeded, accept.Unknown},
		{foreignError{temporary: true}, accept.Starved},
		{foreignError{}, accept.Unknown},
		{fmt.Errorf("wrapped: %w", foreignError{temporary: true}), accept.Starved},
		{net.ErrClosed, accept.Dead},
		{&net.OpError{Op: "accept", Err: net.ErrClosed}, accept.Dead},
	} {
		if got := accept.Classify(tt.err); got != tt.want {
			t.Errorf("Classify(%v) = %v, want %v", tt.err, got, tt.want)
		}
	}
}

// A listener's own deadline and its own close, as package net really says them.
func TestClassifyRealListener(t *testing.T) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.SetDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); accept.Classify(err) != accept.Unknown || err == nil {
		t.Errorf("deadline: %v is %v", err, accept.Classify(err))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); accept.Classify(err) != accept.Dead {
		t.Errorf("closed: %v is %v", err, accept.Classify(err))
	}
}

func TestKindString(t *testing.T) {
	for k, want := range map[accept.Kind]string{
		accept.Unknown: "unknown", accept.Harmless: "harmless",
		accept.Starved: "starved", accept.Dead: "dead",
	} {
		if k.String() != want {
			t.Errorf("%d is %q, want %q", k, k, want)
		}
	}
}
