package lab_test

import (
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/lab"
)

// sendFlood sends count datagrams from r to a closed port of s and returns how the
// wire treated them.
func sendFlood(t *testing.T, n *lab.Network, count int, pause time.Duration) []lab.Packet {
	t.Helper()
	if err := n.Call(t.Context(), "r", "flood", floodOf{"192.0.0.81:9", count, pause}, nil); err != nil {
		t.Fatal(err)
	}
	var sent []lab.Packet
	for range 100 { // the last ones may still be on their way
		sent = packets(t, n).Select(func(p lab.Packet) bool { return p.Proto == syscall.IPPROTO_UDP })
		if len(sent) == count && !slices.ContainsFunc(sent, underway) {
			return sent
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("%d of %d datagrams came to the wire", len(sent), count)
	return nil
}

func underway(p lab.Packet) bool { return !p.Lost && !p.Dropped && p.Out.IsZero() }

// delays returns how long each packet took, sorted.
func delays(sent []lab.Packet) []time.Duration {
	var all []time.Duration
	for _, p := range sent {
		all = append(all, p.Out.Sub(p.At))
	}
	slices.Sort(all)
	return all
}

// No frame may be early, and the median may be at most 50 ms late, even on a busy
// machine. The frames are spread over a second, so that one pause of the machine does
// not decide.
func TestWireDelay(t *testing.T) {
	t.Parallel()
	const delay, late = 100 * time.Millisecond, 50 * time.Millisecond
	n := pair(t, lab.Wire{Delay: delay})
	all := delays(sendFlood(t, n, 200, 5*time.Millisecond))
	if all[0] < delay {
		t.Errorf("a frame took %v, asked for %v", all[0], delay)
	}
	if median := all[len(all)/2]; median > delay+late {
		t.Errorf("the median frame took %v, asked for %v", median, delay)
	}
	listen(t, n, "s", ":7001")
	begin := time.Now()
	if _, err := observe(t, n, "r", "", "[fd00::81]:7001"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < 3*delay || took > 30*delay {
		t.Errorf("handshake and answer took %v, which is not near three times %v", took, delay)
	}
}

// The median decides, since on a busy machine one late frame does not prove jitter.
// The median of 40 evenly distributed values lies below a sixth of the range less
// than once in a million.
func TestWireJitter(t *testing.T) {
	t.Parallel()
	const delay, jitter = 20 * time.Millisecond, 30 * time.Millisecond
	n := pair(t, lab.Wire{Delay: delay, Jitter: jitter})
	all := delays(sendFlood(t, n, 40, delay+jitter)) // one at a time
	if median := all[len(all)/2]; all[0] < delay || median < delay+jitter/6 {
		t.Errorf("delays from %v, half of them up to %v, asked for %v and up to %v more", all[0], median, delay, jitter)
	}
}

func TestWireKeepsOrder(t *testing.T) {
	t.Parallel()
	n := pair(t, lab.Wire{Jitter: 30 * time.Millisecond})
	inOrder := func(a, b lab.Packet) int { return a.Out.Compare(b.Out) }
	if sent := sendFlood(t, n, 300, 0); !slices.IsSortedFunc(sent, inOrder) {
		t.Error("what one host sent came out of order")
	}
}

// The number of lost frames is within five standard deviations of the expected one.
func TestWireLoss(t *testing.T) {
	t.Parallel()
	const count, low, high = 2000, 403, 597 // 500 expected, deviation 19.4
	n := pair(t, lab.Wire{Loss: 0.25})
	lost := 0
	for _, p := range sendFlood(t, n, count, 0) {
		if p.Lost {
			lost++
		}
	}
	if lost < low || lost > high {
		t.Errorf("lost %d of %d frames, asked for a quarter", lost, count)
	}
}

// A path drops SYNs from one port until it is healed.
func TestWireDrop(t *testing.T) {
	t.Parallel()
	n := pair(t, lab.Wire{Drop: []lab.Match{{SYN: true, SrcPort: 4001}}})
	listen(t, n, "s", ":7001")
	for _, to := range []string{"192.0.0.81:7001", "[fd00::81]:7001"} {
		wantDial(t, n, "r", ":4001", to, os.ErrDeadlineExceeded)
		wantDial(t, n, "r", ":4002", to, nil)
	}
	dropped := packets(t, n).Select(func(p lab.Packet) bool { return p.Dropped })
	for _, p := range dropped {
		if !p.IsSYN() || p.Src.Port() != 4001 || !p.Out.IsZero() {
			t.Errorf("dropped %v", p)
		}
	}
	if len(dropped) < 2 {
		t.Errorf("dropped %d packets, want a SYN for each dial at least", len(dropped))
	}
	if err := n.SetWire("wire", lab.Wire{}); err != nil {
		t.Fatal(err)
	}
	wantDial(t, n, "r", ":4001", "192.0.0.81:7001", nil) // healed
}

// Data arrives intact although its checksums are left to the wire, and each log entry
// is one segment.
func TestWireStream(t *testing.T) {
	t.Parallel()
	n := pair(t, lab.Wire{Delay: time.Millisecond, Loss: 0.01})
	sums := make(chan string, 1)
	go func() {
		got, err := lab.Call[string](t.Context(), n, "s", "sum", ":7001")
		if err != nil {
			got = err.Error()
		}
		sums <- got
	}()
	want, err := lab.Call[string](t.Context(), n, "r", "stream", "192.0.0.81:7001")
	if err != nil {
		t.Fatal(err)
	}
	if got := <-sums; got != want {
		t.Errorf("got %v, sent %v", got, want)
	}
	big := packets(t, n).Select(func(p lab.Packet) bool { return p.Len > 1460 })
	if len(big) > 0 {
		t.Errorf("%d packets are more than a segment, such as %v", len(big), big[0])
	}
}

// The log shows who sent what and when, lost or not, and is empty after it is
// cleared.
func TestWireLog(t *testing.T) {
	t.Parallel()
	n := pair(t, lab.Wire{})
	listen(t, n, "s", ":7001")
	begin := time.Now()
	for range 2 {
		if _, err := observe(t, n, "r", ":4001", "192.0.0.81:7001"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	syns := packets(t, n).SYNs()
	if len(syns) != 2 {
		t.Fatalf("%d SYNs, want 2: %v", len(syns), syns)
	}
	s := syns[0]
	if s.From != "r" || s.To != "s" || s.Src.String() != "192.0.0.80:4001" || s.Dst.String() != "192.0.0.81:7001" || s.Flags != lab.SYN {
		t.Errorf("logged %v", s)
	}
	if s.At.Before(begin) || syns[1].At.Sub(s.At) < 50*time.Millisecond || syns[1].At.After(time.Now()) {
		t.Errorf("began at %v, SYNs at %v and %v", begin, s.At, syns[1].At)
	}
	if err := n.ClearLog("wire"); err != nil {
		t.Fatal(err)
	}
	if left := packets(t, n).SYNs(); len(left) != 0 {
		t.Errorf("cleared, but %v", left)
	}
}
