package serve

import (
	"errors"
	"net"
	"runtime"
)

// ServeN runs Serve with n accept loops on one address (zero or negative: one for
// each of GOMAXPROCS). If l is a *net.TCPListener, each loop has its own descriptor
// of the one socket; otherwise all loops accept from l. The server owns l. When one
// loop ends, the others end too; ServeN then returns ErrServerClosed or the error of
// that loop.
//
// To use several handles of a reuseport.Transport instead, call its Listen n times
// and Serve for each. Measure whether it helps: accepting is seldom what limits a
// server, see bench/hello.
func (s *Server) ServeN(l net.Listener, n int) error {
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
	}
	handles, err := duplicate(l, n)
	if err != nil {
		return err
	}
	ended := make(chan error, n)
	for _, h := range handles {
		go func() { ended <- s.Serve(h) }()
	}
	return first(ended, handles)
}

// first waits for all loops and returns the error of the one that ended first, joined
// with any further errors. It closes the handles, which ends the others.
func first(ended <-chan error, handles []net.Listener) error {
	err := <-ended
	for _, h := range handles {
		_ = h.Close() // Serve reports an error that matters
	}
	for range len(handles) - 1 {
		if e := <-ended; !errors.Is(e, ErrServerClosed) && !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// duplicate returns n listeners on the socket of l, the first of which is l. On error
// it closes l.
func duplicate(l net.Listener, n int) ([]net.Listener, error) {
	handles := []net.Listener{l}
	for len(handles) < n {
		h, err := handle(l)
		if err != nil {
			for _, h := range handles {
				err = errors.Join(err, h.Close())
			}
			return nil, err
		}
		handles = append(handles, h)
	}
	return handles, nil
}
