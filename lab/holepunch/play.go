package holepunch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/reusetransport/reuseport/lab"
)

// Panel is one punch as the wire saw it, ready to be drawn.
type Panel struct {
	Title   string
	Scene   Scene
	Result  Result
	Packets []lab.Packet // between the borders, in order of time
}

// Config says what to draw.
type Config struct {
	RTT   time.Duration
	Late  time.Duration // how long b starts after a
	Reset bool          // the NATs answer unsolicited packets with a RST
}

// drawnPatience is long enough for the SYN to be repeated, and short enough to wait
// for.
const drawnPatience = 2500 * time.Millisecond

// Play makes the same punch three times, each in a network of its own: from the
// listening port, from ephemeral ports, and from the listening port behind NATs with
// address-and-port-dependent mapping.
func Play(ctx context.Context, cfg Config) ([]Panel, error) {
	unsolicited := lab.Drop
	if cfg.Reset {
		unsolicited = lab.Reset
	}
	shifting := NATed(lab.PortShifting, unsolicited)
	dependent := NATed(lab.AddressAndPortDependent, unsolicited)
	panels := []Panel{
		{Title: "Listening port", Scene: Scene{RTT: cfg.RTT, A: shifting, B: shifting}},
		{Title: "Ephemeral port", Scene: Scene{RTT: cfg.RTT, A: shifting, B: shifting}},
		{Title: "Listening port, dependent mapping", Scene: Scene{RTT: cfg.RTT, A: dependent, B: dependent}},
	}
	errs := make([]error, len(panels))
	var wg sync.WaitGroup
	for i, from := range []From{Listening, Ephemeral, Listening} {
		wg.Go(func() {
			errs[i] = panels[i].play(ctx, Try{Port: 4001, From: from, LateB: cfg.Late, Patience: drawnPatience})
		})
	}
	wg.Wait()
	return panels, errors.Join(errs...)
}

// play builds the network, makes the try and keeps what crossed the wire.
func (p *Panel) play(ctx context.Context, t Try) error {
	n, err := lab.Build(ctx, p.Scene.Topology())
	if err != nil {
		return err
	}
	err = p.playOn(ctx, n, t)
	if err := errors.Join(err, n.Close()); err != nil {
		return fmt.Errorf("%s: %w\n%s", p.Title, err, n.Output())
	}
	return nil
}

func (p *Panel) playOn(ctx context.Context, n *lab.Network, t Try) error {
	if err := Open(ctx, n); err != nil {
		return err
	}
	var err error
	if p.Result, err = p.Scene.Run(ctx, n, t); err != nil {
		return err
	}
	log, err := n.Log(wire)
	p.Packets = log.Select(betweenBorders)
	slices.SortStableFunc(p.Packets, func(x, y lab.Packet) int { return x.At.Compare(y.At) })
	return err
}

// betweenBorders reports whether p crossed between the borders, which leaves out the
// traffic with the rendezvous.
func betweenBorders(p lab.Packet) bool {
	return p.From == "borderA" && p.To == "borderB" || p.From == "borderB" && p.To == "borderA"
}

// arrow is a packet on its way from one border to the other.
type arrow struct {
	label      string
	rightward  bool          // from a's side to b's
	sent, came time.Duration // since the first packet
	admitted   bool          // by the NAT that it reached
}

// drawnArrows bounds a drawing. Further packets are counted.
const drawnArrows = 12

// arrows returns the packets of the opening, and the number of SYNs that follow them.
func (p Panel) arrows() (drawn []arrow, more int) {
	for i, q := range p.Packets {
		if q.Len > 0 || q.Flags&lab.FIN != 0 || len(drawn) == drawnArrows {
			return drawn, p.synsFrom(i)
		}
		drawn = append(drawn, arrow{
			label:     label(q),
			rightward: q.From == "borderA",
			sent:      q.At.Sub(p.Packets[0].At),
			came:      q.Out.Sub(p.Packets[0].At),
			admitted:  p.admitted(q),
		})
	}
	return drawn, 0
}

// synsFrom counts the SYNs from packet i on.
func (p Panel) synsFrom(i int) (n int) {
	for _, q := range p.Packets[i:] {
		if q.IsSYN() {
			n++
		}
	}
	return n
}

// label names a packet, with the ports outside the NATs.
func label(q lab.Packet) string {
	if q.IsSYN() {
		return fmt.Sprintf("SYN %d>%d", q.Src.Port(), q.Dst.Port())
	}
	return q.Flags.String()
}

// admitted reports whether the NAT that q reached let it in
// (address-and-port-dependent filtering, RFC 5382): the NAT had sent a SYN along the
// same path in the other direction, and did not answer q with a RST.
func (p Panel) admitted(q lab.Packet) bool {
	if q.Flags&lab.RST != 0 {
		return true
	}
	opened := false
	for _, back := range p.Packets {
		if back.From != q.To || back.Src != q.Dst || back.Dst != q.Src {
			continue
		}
		if back.Flags&lab.RST != 0 && back.Ack == q.Seq+1 {
			return false
		}
		opened = opened || back.IsSYN() && back.At.Before(q.Out)
	}
	return opened
}

// mappings says at which address each side was seen.
func (p Panel) mappings() (a, b string) {
	return fmt.Sprintf("a :%d is seen as %v", p.Result.Port, p.Result.SeenA), fmt.Sprintf("b :%d is seen as %v", p.Result.Port, p.Result.SeenB)
}

// verdict says in one line how the punch ended.
func (p Panel) verdict() string {
	if !p.Result.Connected() {
		return fmt.Sprintf("not connected in %v", p.Result.Patience)
	}
	took := max(p.Result.A.Took, p.Result.B.Took).Round(time.Millisecond)
	if p.Result.A.Accepted || p.Result.B.Accepted {
		return fmt.Sprintf("connected in %v, at a listener", took)
	}
	return fmt.Sprintf("connected in %v, both sides dialed", took)
}
