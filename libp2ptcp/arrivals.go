package libp2ptcp

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// ErrPeerFirst says that a dial found its 4-tuple taken by a connection that the peer
// had just opened, and that the host now has that connection. The swarm then uses it.
// Without this error, hosts that dial each other at the same time would end with two
// connections, as hosts on go-libp2p's own transport do (TestMesh).
var ErrPeerFirst = errors.New("libp2ptcp: the peer's own connection came first")

// arrivals are the open accepted connections, by remote address.
type arrivals struct {
	mu   sync.Mutex
	open map[string]*arrival
}

// arrival is an accepted connection.
type arrival struct {
	tcp *scopedConn

	settled chan struct{} // closed when the host has the connection, or when it ends
	once    sync.Once
	peer    peer.ID // set before settled is closed; empty if the host never had the connection
}

// add adds an accepted connection. It replaces an earlier one from the same address,
// which the kernel has already ended.
func (s *arrivals) add(c *scopedConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = make(map[string]*arrival)
	}
	s.open[key(c.RemoteMultiaddr())] = &arrival{tcp: c, settled: make(chan struct{})}
}

// remove removes a closed connection.
func (s *arrivals) remove(c *scopedConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := key(c.RemoteMultiaddr())
	if a := s.open[k]; a != nil && a.tcp == c {
		delete(s.open, k)
		a.settle("")
	}
}

// from returns the open connection from raddr, or nil.
func (s *arrivals) from(raddr ma.Multiaddr) *arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[key(raddr)]
}

// arrivalGrace is how long to wait for an accepted connection to show up here after
// it got in the way of a dial: the accept loop has to run once.
const arrivalGrace = 10 * time.Millisecond

// await is from, but waits up to arrivalGrace for a connection to show up.
func (s *arrivals) await(raddr ma.Multiaddr) *arrival {
	const tries = 10
	for range tries {
		if a := s.from(raddr); a != nil {
			return a
		}
		time.Sleep(arrivalGrace / tries)
	}
	return nil
}

// settle records that the host has the connection, or with an empty p that it never
// will. Only the first call counts.
func (a *arrival) settle(p peer.ID) {
	a.once.Do(func() {
		a.peer = p
		close(a.settled)
	})
}

// isFrom waits until it is known whose connection a is, and reports whether it is
// p's. A nil a belongs to no peer.
func (a *arrival) isFrom(ctx context.Context, p peer.ID) bool {
	if a == nil {
		return false
	}
	select {
	case <-a.settled:
		return a.peer == p
	case <-ctx.Done():
		return false
	}
}

// drop closes a connection whose handshake is not done, and reports whether it did.
func (a *arrival) drop() bool {
	select {
	case <-a.settled:
		return false
	default:
		_ = a.tcp.Close() // its owner, the upgrader, notices at its next read
		return true
	}
}

func key(a ma.Multiaddr) string { return string(a.Bytes()) }
