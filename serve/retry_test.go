//go:build !plan9

package serve_test

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/serve"
)

func TestRetryAccept(t *testing.T) {
	l := listen(t)
	r := serve.RetryAccept(&scripted{Listener: l, errs: []error{syscall.ECONNABORTED, syscall.EMFILE}}, time.Millisecond)
	dial(t, l)
	c, err := r.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := c.(*net.TCPConn); !ok {
		t.Errorf("%T, want *net.TCPConn", c)
	}
	if err := errors.Join(c.Close(), r.Close()); err != nil {
		t.Error(err)
	}
	if _, err := r.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// starving never has a descriptor. It signals each call of Accept.
type starving struct {
	net.Listener
	asked chan struct{}
}

func (l starving) Accept() (net.Conn, error) {
	l.asked <- struct{}{}
	return nil, syscall.EMFILE
}

func TestRetryAcceptWokenByClose(t *testing.T) {
	asked := make(chan struct{}, 1)
	r := serve.RetryAccept(starving{listen(t), asked}, time.Hour)
	ended := make(chan error, 1)
	go func() {
		_, err := r.Accept()
		ended <- err
	}()
	<-asked
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v, want net.ErrClosed", err)
	}
}
