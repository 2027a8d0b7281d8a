package foreign_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
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
	go func() { played <- o.play(t.Context(), s, addrs) }()
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
func (o outage) play(ctx context.Context, s site, addrs map[stack]string) error {
	time.Sleep(2 * time.Second)
	opened := make(chan error, 2)
	for _, k := range stacks() {
		go func() { opened <- s.n.Call(ctx, s.ours, "open", addrs[k], nil) }()
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

// TestHeavyLoss loses 35 % of the frames each way. With enough repeats the kernel gets
// everything through, so that nothing may be cut; a client that is not done after a
// while is neither cut nor whole.
func TestHeavyLoss(t *testing.T) {
	t.Parallel()
	// Without this the kernel itself gives up an orphan after some 8 repeats
	// (tcp_orphan_retries), and chance would decide.
	s := network(t, map[string]string{"net.ipv4.tcp_orphan_retries": "100", "net.ipv4.tcp_retries2": "100"})
	heavyLoss(t, s, row{name: "nc reads 20 kB, 35 % loss, nothing cut", tries: 5, atOnce: 5})
}

// TestHeavyLossLong is TestHeavyLoss as the kernel comes. It cuts some of package
// net's too; chance may cost the transport a few more.
func TestHeavyLossLong(t *testing.T) {
	if !*long {
		t.Skip("needs -long")
	}
	t.Parallel()
	s := network(t, nil)
	heavyLoss(t, s, row{name: "nc reads 20 kB, 35 % loss", tries: 20, atOnce: 20, slack: 4})
}

func heavyLoss(t *testing.T, s site, r row) {
	const size = 20_000
	nc := program(t, "nc")
	addrs := s.mustServe(t, service{Manner: answers, Size: size})
	w := plainWire()
	w.Loss = 0.35
	if err := s.n.SetWire("wire", w); err != nil {
		t.Fatal(err)
	}
	patience := 60 * time.Second
	if *long {
		patience = 4 * time.Minute
	}
	var late atomic.Int32
	compare(t, r, func(k stack, _ int) error {
		host, port := split(addrs[k])
		out, err := s.run(t.Context(), command{Args: []string{nc, "-d", host, port}, Limit: patience})
		if err == nil && out.Killed {
			late.Add(1)
			return nil
		}
		return errors.Join(err, out.check(size, 1))
	})
	t.Logf("%d of %d were not done after %v", late.Load(), 2*r.tries, patience)
}
