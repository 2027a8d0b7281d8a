package lab

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
)

var (
	// ErrRefused means that this machine does not let the caller make network
	// namespaces, or lacks what fills them (veth, nftables, packet sockets).
	ErrRefused = errors.New("lab: network namespaces are refused")

	// ErrTopology means that a description contradicts itself or does not parse.
	ErrTopology = errors.New("lab: bad topology")

	// ErrEnded means that a host's process is gone.
	ErrEnded = errors.New("lab: the host's process has ended")
)

// RemoteError is an error of another process. errors.Is finds in it what it
// would have found there, by the text of the errors wrapped: a sentinel or an
// errno with a text of its own, such as syscall.ECONNREFUSED.
type RemoteError struct {
	Host string // where it happened
	Op   string // what was asked for
	Text string // the error's text there

	// Kinds are the texts of all errors in the tree, for Is.
	Kinds []string
}

func (e *RemoteError) Error() string { return e.Host + ": " + e.Op + ": " + e.Text }

// Is tells whether target was in the tree of the remote error.
func (e *RemoteError) Is(target error) bool { return slices.Contains(e.Kinds, target.Error()) }

// remoteError packs err for the way to another process.
func remoteError(err error) *RemoteError {
	return &RemoteError{Text: err.Error(), Kinds: kinds(err)}
}

// kinds lists the texts of all errors in err's tree, and of the sentinels of
// the standard library that match without being in it. os.ErrPermission is not
// among them: it shares its text with EACCES, and matches EPERM as well.
func kinds(err error) []string {
	texts := tree(err, nil)
	for _, s := range []error{
		context.DeadlineExceeded, context.Canceled, os.ErrDeadlineExceeded,
		os.ErrExist, os.ErrNotExist, net.ErrClosed, errors.ErrUnsupported,
	} {
		if errors.Is(err, s) {
			texts = append(texts, s.Error())
		}
	}
	return texts
}

func tree(err error, texts []string) []string {
	texts = append(texts, err.Error())
	switch x := err.(type) {
	case interface{ Unwrap() error }:
		if next := x.Unwrap(); next != nil {
			texts = tree(next, texts)
		}
	case interface{ Unwrap() []error }:
		for _, next := range x.Unwrap() {
			texts = tree(next, texts)
		}
	case *RemoteError:
		texts = append(texts, x.Kinds...)
	}
	return texts
}
