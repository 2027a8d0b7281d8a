package serve

import (
	"net"
	"sync"
	"time"

	"github.com/reusetransport/reuseport/internal/accept"
)

// RetryAccept wraps l for servers that would stop at any accept error: Accept of the
// returned listener returns only errors that mean the end of l. It skips a connection
// that was aborted in the queue. When the process is out of descriptors or memory it
// accepts again after delay (zero or negative: DefaultErrorDelay).
//
// The returned listener owns l. Its Close closes l and ends such a wait at once, with
// net.ErrClosed. Connections are returned as l made them. Accept may be called by
// several goroutines at once.
func RetryAccept(l net.Listener, delay time.Duration) net.Listener {
	return &retrying{Listener: l, backoff: fixedBackoff(delay), closed: make(chan struct{})}
}

type retrying struct {
	net.Listener
	backoff accept.Backoff
	closed  chan struct{}
	once    sync.Once
}

func (r *retrying) Accept() (net.Conn, error) {
	return accept.Next(&r.backoff, r.closed, r.Listener.Accept)
}

func (r *retrying) Close() error {
	r.once.Do(func() { close(r.closed) })
	return r.Listener.Close()
}

func fixedBackoff(delay time.Duration) accept.Backoff {
	if delay <= 0 {
		delay = DefaultErrorDelay
	}
	return accept.Backoff{Min: delay, Max: delay}
}
