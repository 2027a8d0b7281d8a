package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport/lab"
)

// demo is one run.
type demo struct {
	file    string
	size    int64
	rtt     time.Duration
	mapping lab.Mapping
	out     io.Writer
}

// topology returns two hosts behind NATs and a relay. The addresses on the wire are
// public to go-libp2p, but reserved, and not routed anywhere.
func (d *demo) topology() lab.Topology {
	nat := &lab.NAT{Outside: "wire", Mapping: d.mapping}
	return lab.Topology{
		Wires: lab.Wires{"wire": {Delay: d.rtt / 2}},
		Hosts: lab.Hosts{
			"receiver": {On: lab.On{"lanA": "10.1.0.2/24"}, Via: "10.1.0.1", Role: "peer"},
			"natA":     {On: lab.On{"lanA": "10.1.0.1/24", "wire": "192.0.0.65/24"}, NAT: nat},
			"sender":   {On: lab.On{"lanB": "10.2.0.2/24"}, Via: "10.2.0.1", Role: "peer"},
			"natB":     {On: lab.On{"lanB": "10.2.0.1/24", "wire": "192.0.0.66/24"}, NAT: nat},
			"relay":    {On: lab.On{"wire": "192.0.0.80/24"}, Role: "relay"},
		},
	}
}

// job is what the sender has to do.
type job struct {
	To    peer.ID
	Relay peer.AddrInfo
	File  string
	Size  int64 // of random bytes, if File is empty
}

// met says how the two met. From and Remote are empty if they met only at the relay.
type met struct {
	From, Remote string
	After        time.Duration
}

// run makes the two meet, sends the file, and prints each step.
func (d *demo) run(ctx context.Context, n *lab.Network) (met, error) {
	r, err := lab.Call[peer.AddrInfo](ctx, n, "relay", "start", struct{}{})
	if err != nil {
		return met{}, err
	}
	d.say("relay     %s", r.Addrs[0])
	ids := map[string]peer.ID{}
	for _, name := range []string{"receiver", "sender"} {
		me, err := lab.Call[peer.AddrInfo](ctx, n, name, "start", r)
		if err != nil {
			return met{}, err
		}
		ids[name] = me.ID
		d.say("%-9s %s, behind a NAT, reserved a slot at the relay", name, me.Addrs[0])
	}
	j := job{To: ids["receiver"], Relay: r, File: d.file, Size: d.size}
	m, err := lab.Call[met](ctx, n, "sender", "meet", j)
	if err != nil {
		return met{}, err
	}
	d.sayMet(m)
	return m, d.transfer(ctx, n, j)
}

func (d *demo) sayMet(m met) {
	if m.From == "" {
		d.say("no hole could be punched: the relay carries the file")
		return
	}
	d.say("punched   %s > %s, %d ms after the call through the relay", m.From, m.Remote, m.After.Milliseconds())
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, format+"\n", args...)
}

// transfer starts sending and draws the bar until it is done.
func (d *demo) transfer(ctx context.Context, n *lab.Network, j job) error {
	if d.file != "" {
		info, err := os.Stat(d.file)
		if err != nil {
			return err
		}
		d.size = info.Size()
	}
	type end struct {
		hash string
		err  error
	}
	ended, began := make(chan end, 1), time.Now()
	go func() {
		hash, err := lab.Call[string](ctx, n, "sender", "send", j)
		ended <- end{hash, err}
	}()
	for {
		select {
		case e := <-ended:
			if e.err != nil {
				return e.err
			}
			d.say("\r%s\nthe receiver has it, SHA-256 %s", bar(d.size, d.size, time.Since(began)), e.hash)
			return nil
		case <-time.After(200 * time.Millisecond):
			sent, err := lab.Call[int64](ctx, n, "sender", "sent", struct{}{})
			if err != nil {
				return err
			}
			fmt.Fprintf(d.out, "\r%s", bar(sent, d.size, time.Since(began)))
		}
	}
}

// roles returns what the processes in the lab do.
func roles() lab.Roles {
	return lab.Roles{"relay": relayRole, "peer": peerRole}
}

func relayRole(p *lab.Process) error {
	h, err := newRelay("/ip4/0.0.0.0/tcp/4001")
	if err != nil {
		return err
	}
	defer h.Close() // the lab ends too
	lab.Handle(p, "start", func(context.Context, struct{}) (peer.AddrInfo, error) {
		return outside(h), nil
	})
	return p.Serve()
}

// outside returns the addresses of a host without loopback.
func outside(h host.Host) peer.AddrInfo {
	me := *host.InfoFromHost(h)
	me.Addrs = slices.DeleteFunc(me.Addrs, func(a ma.Multiaddr) bool { return manet.IsIPLoopback(a) })
	return me
}

func peerRole(p *lab.Process) error {
	h, err := newHost("/ip4/0.0.0.0/tcp/4001")
	if err != nil {
		return err
	}
	defer h.Close() // the lab ends too
	receive(h, io.Discard)
	var sent atomic.Int64
	lab.Handle(p, "start", func(ctx context.Context, r peer.AddrInfo) (peer.AddrInfo, error) {
		return outside(h), reserve(ctx, h, r)
	})
	lab.Handle(p, "meet", func(ctx context.Context, j job) (met, error) { return meetAs(ctx, h, j) })
	lab.Handle(p, "sent", func(context.Context, struct{}) (int64, error) { return sent.Load(), nil })
	lab.Handle(p, "send", func(ctx context.Context, j job) (string, error) { return sendAs(ctx, h, j, &sent) })
	return p.Serve()
}

func meetAs(ctx context.Context, h host.Host, j job) (met, error) {
	began := time.Now()
	c, err := meet(ctx, h, j.Relay, j.To)
	if c == nil || err != nil {
		return met{}, err
	}
	return met{From: c.LocalMultiaddr().String(), Remote: c.RemoteMultiaddr().String(), After: time.Since(began)}, nil
}

func sendAs(ctx context.Context, h host.Host, j job, sent *atomic.Int64) (string, error) {
	if j.File == "" {
		return send(ctx, h, j.To, io.LimitReader(rand.Reader, j.Size), sent)
	}
	f, err := os.Open(j.File)
	if err != nil {
		return "", err
	}
	defer f.Close() // only read
	return send(ctx, h, j.To, f, sent)
}
