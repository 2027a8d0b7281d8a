package foreign_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// TestOutage cuts the network right after the answers were written and closed. What is
// on its way then waits for the kernel's repeats.
func TestOutage(t *testing.T) {
	t.Parallel()
	for _, o := range []outage{
		{"our link is down", func(s site, off bool) error { return s.n.SetLink(s.ours, "wire", !off) }, 4 * time.Second},
		{"our link is down", func(s site, off bool) error { return s.n.SetLink(s.ours, "wire", !off) }, 6 * time.Second},
		{"the wire loses all", loseAll, 4 * time.Second},
		{"the wire loses all", loseAll, 6 * time.Second},
	} {
		t.Run(fmt.Sprintf("%s for %v", o.name, o.lasts), func(t *testing.T) {
			t.Parallel()
			// The answer fits into the send buffer, so that Close comes at once.
			testOutage(t, network(t, map[string]string{"net.ipv4.tcp_wmem": "4096 2000000 4194304"}), o)
		})
	}
}

// outage is a time without a network.
type outage struct {
	name  string
	cut   func(s site, off bool) error
	lasts time.Duration
}

func loseAll(s site, off bool) error {
	w := plainWire()
	if off {
		w.Loss = 1
	}
	return s.n.SetWire("wire", w)
}

func testOutage(t *testing.T, s site, o outage) {
	const size, tries = 400_000, 20
	nc := program(t, "nc")
	addrs := s.mustServe(t, service{Manner: waits, Size: size})
	played := make(chan error, 1)
	go func() { played <- o.play(t.Context(), s, addrs, tries) }()
	r := row{name: fmt.Sprintf("nc reads 400 kB, %s for %v", o.name, o.lasts), tries: tries, atOnce: tries}
	compare(t, r, func(k stack, _ int) error {
		host, port := split(addrs[k])
		return s.whole(t.Context(), command{Args: []string{nc, "-d", host, port}, Limit: 40 * time.Second}, size, 1)
	})
	if err := <-played; err != nil {
		t.Error(err)
	}
}

// play lets the answers go once all clients have connected, then cuts the network for
// a while.
func (o outage) play(ctx context.Context, s site, addrs map[stack]string, conns int) error {
	opened := make(chan error, 2)
	for _, k := range stacks() {
		go func() { opened <- s.n.Call(ctx, s.ours, "open", opening{addrs[k], conns}, nil) }()
	}
	if err := errors.Join(<-opened, <-opened); err != nil {
		return err
	}
	time.Sleep(60 * time.Millisecond)
	if err := o.cut(s, true); err != nil {
		return err
	}
	time.Sleep(o.lasts)
	return o.cut(s, false)
}

// TestHeavyLoss loses 35 % of the frames each way for 10 s, then none. The kernel goes
// on repeating for longer than that, so that everything must arrive. With losses that
// do not end the kernel gives up some of both, and chance would decide. A reset may be
// lost too: its peer waits in vain.
func TestHeavyLoss(t *testing.T) {
	t.Parallel()
	const size, tries = 100_000, 30
	nc, s := program(t, "nc"), network(t, nil)
	addrs := s.mustServe(t, service{Manner: answers, Size: size})
	w := plainWire()
	w.Loss = 0.35
	if err := s.n.SetWire("wire", w); err != nil {
		t.Fatal(err)
	}
	healed := make(chan error, 1)
	go func() {
		time.Sleep(10 * time.Second)
		healed <- s.n.SetWire("wire", plainWire())
	}()
	compare(t, row{name: "nc reads 100 kB, 35 % loss for 10 s", tries: tries, atOnce: tries}, func(k stack, _ int) error {
		host, port := split(addrs[k])
		return s.whole(t.Context(), command{Args: []string{nc, "-d", host, port}, Limit: 90 * time.Second}, size, 1)
	})
	if err := <-healed; err != nil {
		t.Error(err)
	}
}
