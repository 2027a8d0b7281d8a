// Package netns finds out whether other goroutines work in the network namespace of the
// caller. They do not if the caller has locked its thread and moved it (setns(2), unshare(2)).
package netns

// A Place is where a goroutine was when it called Here.
type Place struct{ thread int }

// Here returns the place of the caller. It costs one system call that does not enter the network
// stack.
func Here() Place { return here() }

// IsShared reports whether the calling goroutine is in the network namespace of p. It is true
// where that cannot be found out: on systems other than Linux, or without /proc.
func (p Place) IsShared() bool { return p.isShared() }

// OthersShare reports whether a new goroutine is in the network namespace of the caller.
func OthersShare() bool {
	p, shared := Here(), make(chan bool)
	go func() { shared <- p.IsShared() }()
	return <-shared
}
