package accept

import (
	"errors"
	"net"
	"os"

	"github.com/reusetransport/reuseport/internal/errno"
)

// Kind says what an accept error means for the listener.
type Kind uint8

const (
	// Unknown errors are the caller's: a deadline on the listener
	// (os.ErrDeadlineExceeded), or what only the listener's maker can explain.
	Unknown Kind = iota
	// Harmless errors cost one connection, which its peer gave up before it
	// was accepted. Accept again at once.
	Harmless
	// Starved errors mean that the process or the system is out of descriptors
	// or memory. The connection still waits in the kernel's queue: accept again
	// once others have had time to finish.
	Starved
	// Dead errors mean that this listener will never accept again: it was
	// closed (net.ErrClosed), or its socket is gone or no longer listens.
	Dead
)

func (k Kind) String() string {
	switch k {
	case Harmless:
		return "harmless"
	case Starved:
		return "starved"
	case Dead:
		return "dead"
	default:
		return "unknown"
	}
}

// Classify returns the kind of an error of a listener's Accept; nil is Unknown.
// It looks through wrapping. An error without an error number, as of a foreign
// listener, is Starved if its Temporary method says so.
func Classify(err error) Kind {
	switch {
	case err == nil, errors.Is(err, os.ErrDeadlineExceeded):
		return Unknown
	case errors.Is(err, net.ErrClosed):
		return Dead
	}
	return classifySystem(err)
}

// classifySystem goes by the error number, if err has one, and not by its methods.
func classifySystem(err error) Kind {
	switch {
	case errno.AcceptHarmless(err):
		return Harmless
	case errno.AcceptStarved(err):
		return Starved
	case errno.AcceptDead(err):
		return Dead
	case errno.IsErrno(err):
		return Unknown
	}
	return classifyForeign(err)
}

// classifyForeign trusts Temporary although it is deprecated, as net/http.Server
// does: a listener outside package net has no other way to say so.
func classifyForeign(err error) Kind {
	var t interface{ Temporary() bool }
	if errors.As(err, &t) && t.Temporary() {
		return Starved
	}
	return Unknown
}
