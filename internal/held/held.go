// Package held remembers which descriptors open connections have, by local port and peer. What it
// remembers is a hint: who asks looks at the descriptor itself.
package held

import (
	"math"
	"net/netip"
	"sync/atomic"

	"github.com/reusetransport/reuseport/internal/netaddr"
)

// A Table remembers descriptors. The zero value is ready, and all methods are safe for concurrent
// use. It takes 32 kB from the first At on, however many connections there are: two that want
// the same slot push each other out. Nothing is ever taken out, since a descriptor that was closed
// shows it.
type Table struct{ slots atomic.Pointer[slots] }

type slots [1 << slotBits]atomic.Uint64 // each a tag, and a descriptor plus one

const (
	slotBits = 12 // of the hash, they choose the slot
	fdBits   = 32
)

// A Place is where the descriptor of a connection is remembered.
type Place struct {
	slot *atomic.Uint64
	tag  uint64
}

// At returns the place of a connection from a local port to a peer.
func (t *Table) At(port uint16, raddr netip.AddrPort) Place {
	all := t.slots.Load()
	if all == nil {
		t.slots.CompareAndSwap(nil, new(slots))
		all = t.slots.Load()
	}
	return all.at(port, raddr)
}

// Note remembers the descriptor of a connection.
func (p Place) Note(fd uintptr) {
	if fd < math.MaxUint32 { // else it is a handle of a system where handles are no small numbers
		p.slot.Store(p.tag | uint64(fd) + 1)
	}
}

// Find returns the descriptor that the latest connection from a local port to a peer had. It may
// belong to something else by now.
func (t *Table) Find(port uint16, raddr netip.AddrPort) (fd uintptr, ok bool) {
	all := t.slots.Load()
	if all == nil {
		return 0, false
	}
	p := all.at(port, raddr)
	v := p.slot.Load()
	if v == 0 || v>>fdBits != p.tag>>fdBits {
		return 0, false
	}
	return uintptr(v&math.MaxUint32 - 1), true
}

func (s *slots) at(port uint16, raddr netip.AddrPort) Place {
	h := netaddr.Hash(port, raddr)
	return Place{&s[h>>(64-slotBits)], h << fdBits}
}
