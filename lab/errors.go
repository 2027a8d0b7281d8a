package lab

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
)

var (
	// ErrRefused means that this machine does not allow the caller to make network
	// namespaces, or lacks what they need (veth, nftables, packet sockets).
	ErrRefused = errors.New("lab: network namespaces are refused")

	// ErrTopology means that a description contradicts itself or does not parse.
	ErrTopology = errors.New("lab: bad topology")

	// ErrEnded means that a host's process has ended.
	ErrEnded = errors.New("lab: the host's process has ended")
)

// RemoteError is an error of another process. errors.Is matches what it would match
// there, by the texts of the wrapped errors: any sentinel or errno with a text of its
// own, such as syscall.ECONNREFUSED.
type RemoteError struct {
	Host string // where it happened
	Op   string // the operation
	Text string // the error's text

	// Kinds holds the texts of all errors in the tree, for Is.
	Kinds []string
}

func (e *RemoteError) Error() string { return e.Host + ": " + e.Op + ": " + e.Text }

// Is reports whether target was in the tree of the remote error.
func (e *RemoteError) Is(target error) bool { return slices.Contains(e.Kinds, target.Error()) }

// remoteError packs err for transport to another process.
func remoteError(err error) *RemoteError {
	return &RemoteError{Text: err.Error(), Kinds: kinds(err)}
}

// kinds returns the texts of all errors in err's tree, and of those sentinels of the
// standard library that match without being in it. os.ErrPermission is not one of
// them: it shares its text with EACCES, but matches EPERM as well.
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
