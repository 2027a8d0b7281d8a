package serve

import (
	"errors"
	"net"
	"runtime"
)

// ServeN runs Serve with n accept loops on one address (zero or negative: one
// for each of GOMAXPROCS). If l is a *net.TCPListener each loop has a descriptor
// of its own for the one socket; otherwise all accept from l. l belongs to the
// server. ServeN returns when all loops have ended, with ErrServerClosed or the
// error of the first that ended otherwise, which ends the others.
//
// To run it over handles of a reuseport.Transport, call its Listen n times and
// Serve for each. Whether it helps has to be measured: accepting is seldom what
// limits a server, see bench/hello.
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

// first collects the ends of all loops. The first one ends the others.
func first(ended <-chan error, handles []net.Listener) error {
	err := <-ended
	for _, h := range handles {
		_ = h.Close() // Serve reports what matters
	}
	for range len(handles) - 1 {
		if e := <-ended; !errors.Is(e, ErrServerClosed) && !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// duplicate returns n listeners on the socket of l, l first. On error l is
// closed.
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
