//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Live holds connections of one peer in a process of its own and times further dials.
// With a process per peer, 19,000 connections of each fit into 20,000 descriptors.
type Live struct {
	site *site
	held []Conn
}

// LiveArgs say what to hold.
type LiveArgs struct {
	Peer string
	Held int
}

// Open listens on two loopback addresses with one port and dials Held connections to
// a sink of its own. A host with port reuse leaves from that port, alternating
// between both addresses unless it prefers one.
func (v *Live) Open(args LiveArgs, _ *Nothing) error {
	p, err := allPeers().find(args.Peer)
	if err != nil {
		return err
	}
	if err := enoughDescriptors(args.Held); err != nil {
		return err
	}
	ar := loopbackArena()
	if v.site, err = newSite(ar, p, ar.local[0]); err != nil {
		return err
	}
	same := netip.AddrPortFrom(ar.local[1], localAddrPort(v.site.listeners[0]).Port())
	l, err := listenOn(v.site.host, same)
	if err != nil {
		return err
	}
	v.site.listeners = append(v.site.listeners, l)
	if v.site.to.addrs, err = block(netip.MustParseAddr("127.64.0.1"), v.site.port, args.Held+destinations); err != nil {
		return err
	}
	v.held, err = v.site.hold(args.Held)
	v.site.to = &ring{addrs: v.site.to.addrs[args.Held:]}
	return err
}

// spareDescriptors is what a process needs besides the connections it holds.
const spareDescriptors = 200

// enoughDescriptors returns an error if the limit does not allow n connections.
func enoughDescriptors(n int) error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return err
	}
	if uint64(n+spareDescriptors) > lim.Cur {
		return fmt.Errorf("%d connections need more than the %d descriptors allowed", n, lim.Cur)
	}
	return nil
}

// Round times dials without the resets that follow.
func (v *Live) Round(lim Limit, s *Sample) error {
	reused, known := 0, false
	got, err := measure(lim, func() (time.Duration, error) {
		to := v.site.to.take()
		start := time.Now()
		c, err := v.site.host.Dial(context.Background(), to)
		if err != nil {
			return 0, err
		}
		took := time.Since(start)
		var ok bool
		if ok, known = isReused(c); ok {
			reused++
		}
		return took, reset(c)
	})
	if known && err == nil {
		got.claim(reused)
	}
	*s = got
	return err
}

// Close resets the held connections and ends the sink.
func (v *Live) Close(Nothing, *Nothing) error {
	return errors.Join(resetAll(v.held), v.site.close())
}

// liveProbe drives a Live in its own process.
type liveProbe struct{ w *worker }

// openLive returns a scenario's open function with held connections.
func openLive(held int) func(*arena, Peer) (probe, error) {
	return func(_ *arena, p Peer) (probe, error) {
		w, err := spawn(workerOptions{})
		if err != nil {
			return nil, err
		}
		if err := w.Call("Live.Open", LiveArgs{p.Name, held}, new(Nothing)); err != nil {
			return nil, errors.Join(err, w.close())
		}
		return liveProbe{w}, nil
	}
}

func (p liveProbe) round(lim Limit) (s Sample, err error) {
	err = p.w.Call("Live.Round", lim, &s)
	return s, err
}

func (p liveProbe) close() error {
	return errors.Join(p.w.Call("Live.Close", Nothing{}, new(Nothing)), p.w.close())
}
