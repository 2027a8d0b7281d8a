//go:build linux

package main

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Pump connects to a listener from a process of its own, again and again.
type Pump struct{}

// PumpArgs say for how long, and with how many clients at a time.
type PumpArgs struct {
	Port    uint16
	Clients int
	Time    time.Duration
}

// Run connects, waits until the other end closes, resets, and starts over. Every
// client has a block of loopback destinations of its own. done is the number of
// connections of all clients.
func (p *Pump) Run(args PumpArgs, done *int) error {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
	)
	end := time.Now().Add(args.Time)
	for i := range args.Clients {
		wg.Go(func() {
			n, err := pumpUntil(end, args.Port, byte(i+1))
			mu.Lock()
			defer mu.Unlock()
			*done += n
			if first == nil {
				first = err
			}
		})
	}
	wg.Wait()
	return first
}

// pumpUntil runs one client until end and returns the number of its connections.
func pumpUntil(end time.Time, port uint16, block byte) (int, error) {
	h := openRaw()
	n := 0
	for ; time.Now().Before(end); n++ {
		to := netip.AddrFrom4([4]byte{127, block, byte(n >> 8), byte(n)})
		if err := pumpOnce(h, &Addr{AddrPort: netip.AddrPortFrom(to, port)}); err != nil {
			return n, err
		}
	}
	return n, nil
}

// pumpOnce makes one connection. The other end may reset it even before connect
// returns, which is no error (EPIPE is a reset after a FIN).
func pumpOnce(h Host, to *Addr) error {
	c, err := h.Dial(context.Background(), to)
	if errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		return nil
	}
	if err != nil {
		return err
	}
	var buf [1]byte
	_, _ = unix.Read(int(c.(rawConn)), buf[:]) // EOF or a reset: the connection is over
	return reset(c)
}
