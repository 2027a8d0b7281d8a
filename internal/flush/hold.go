package flush

import "syscall"

// A Hold keeps package net from closing a descriptor, for want of a second one.
type Hold struct {
	letGo chan struct{} // closed to let it go
	gone  chan error    // the result of the Control that holds it
}

// NewHold begins to hold the descriptor behind raw and returns it. Its error is that of
// raw.Control. Once the Hold is in a Closing, the Flusher ends it.
func NewHold(raw syscall.RawConn) (*Hold, uintptr, error) {
	held := make(chan uintptr)
	h := &Hold{letGo: make(chan struct{}), gone: make(chan error, 1)}
	go func() {
		h.gone <- raw.Control(func(fd uintptr) {
			held <- fd
			<-h.letGo
		})
	}()
	select {
	case fd := <-held:
		return h, fd, nil
	case err := <-h.gone:
		return nil, 0, err
	}
}

// release lets the descriptor go and returns when it is closed: package net's last user of
// a closed descriptor closes it.
func (h *Hold) release() {
	close(h.letGo)
	<-h.gone
}
