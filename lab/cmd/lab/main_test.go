package main

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/lab"
)

func TestMain(m *testing.M) { lab.Main(m, roles()) }

// The drawing shows the mapping of each kind of NAT as the kernel made it.
func TestRun(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		want []string
	}{
		"preserving": {nil, []string{
			"20ms round trip", "reused",
			"a has one mapping, 192.0.0.65:4001", "b has one mapping, 192.0.0.66:4001",
			"│─ SYN 4001 > 7001 ─", "─ SYN,ACK 7001 > 4001 ─│",
		}},
		"shifting":  {[]string{"-nat", "shifting", "-rtt", "4ms"}, []string{"4ms round trip", "a has one mapping, 192.0.0.65:2"}},
		"dependent": {[]string{"-nat", "dependent", "-reset"}, []string{"with a RST", "a has a mapping for each destination"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, err := parseFlags(tt.args, os.Stderr)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			err = run(t.Context(), cfg, &out)
			if errors.Is(err, lab.ErrRefused) && os.Getenv("CI") == "" {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in\n%s", want, &out)
				}
			}
		})
	}
}

func TestParseFlags(t *testing.T) {
	for _, args := range [][]string{{"-nat", "cone"}, {"-rtt", "soon"}, {"-what"}, {"dance"}} {
		if cfg, err := parseFlags(args, &bytes.Buffer{}); err == nil {
			t.Errorf("%v gives %+v, want an error", args, cfg)
		}
	}
}

func TestDrawSYNs(t *testing.T) {
	begin := time.Unix(1700000000, 0)
	packet := func(ms int, from, to string, flags lab.TCPFlags, dropped bool) lab.Packet {
		return lab.Packet{
			At: begin.Add(time.Duration(ms) * time.Millisecond), From: from, To: to, Flags: flags, Dropped: dropped,
			Src: netip.MustParseAddrPort("192.0.0.65:4001"), Dst: netip.MustParseAddrPort("192.0.0.66:4001"),
		}
	}
	got := drawSYNs([]lab.Packet{
		packet(12, "natB", "natA", lab.SYN, false), // the log is not in order of time
		packet(0, "natA", "natB", lab.SYN, false),
		packet(20, "natA", "r", lab.SYN|lab.ACK, true),
		packet(30, "natA", "r", lab.ACK, false),
	})
	want := `SYNs on the wire
        ms  natA                            r                               natB
       0.0  │─ SYN 4001 > 4001 ────────────────────────────────────────────>│
      12.0  │<──────────────────────────────────────────── SYN 4001 > 4001 ─│
      20.0  │─ SYN,ACK 4001 > 4001 ────────x│                               │
`
	if got != want {
		t.Errorf("drew\n%s\nwant\n%s", got, want)
	}
}
