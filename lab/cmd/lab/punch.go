package main

import (
	"context"
	"flag"
	"io"
	"os"
	"time"

	"github.com/reusetransport/reuseport/lab/holepunch"
)

// punchConfig holds the values of the flags of lab punch.
type punchConfig struct {
	holepunch.Config
	svg string // file; empty = none
}

func parsePunchFlags(args []string, out io.Writer) (punchConfig, error) {
	var cfg punchConfig
	flags := flag.NewFlagSet("lab punch", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.DurationVar(&cfg.RTT, "rtt", 20*time.Millisecond, "round trip `time` of the wire")
	flags.DurationVar(&cfg.Late, "late", 5*time.Millisecond, "`time` that b starts after a")
	flags.BoolVar(&cfg.Reset, "reset", false, "the NATs answer unsolicited SYNs with a RST")
	flags.StringVar(&cfg.svg, "svg", "", "draw a picture into this `file` too")
	return cfg, flags.Parse(args)
}

// punch punches in three ways and draws them side by side.
func punch(ctx context.Context, cfg punchConfig, out io.Writer) error {
	panels, err := holepunch.Play(ctx, cfg.Config)
	if err != nil {
		return err
	}
	if err := holepunch.DrawText(out, cfg.Config, panels); err != nil || cfg.svg == "" {
		return err
	}
	f, err := os.Create(cfg.svg)
	if err != nil {
		return err
	}
	if err := holepunch.DrawSVG(f, cfg.Config, panels); err != nil {
		_ = f.Close() // the first error says enough
		return err
	}
	return f.Close()
}
