// Command lab builds two NATs on this machine, in namespaces of its own. A host
// behind each reaches a rendezvous from its listening port, and lab draws what was
// seen: the topology, the mappings, and the SYNs over time.
//
//	go run ./cmd/lab -nat shifting -rtt 100ms
//
// With the word punch the two hosts dial each other instead: from their listening
// ports, from ephemeral ports, and from their listening ports behind NATs that cannot
// be punched. The three are drawn side by side:
//
//	go run ./cmd/lab punch -svg punch.svg
//
// It needs Linux and no privileges, and touches no interface of the machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/reusetransport/reuseport/lab"
)

// config holds the values of the flags.
type config struct {
	nat lab.NAT
	rtt time.Duration
}

func main() {
	lab.Enter(roles())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := command(ctx, os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// command runs what the arguments ask for.
func command(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == "punch" {
		cfg, err := parsePunchFlags(args[1:], os.Stderr)
		if err != nil {
			return err
		}
		return punch(ctx, cfg, os.Stdout)
	}
	cfg, err := parseFlags(args, os.Stderr)
	if err != nil {
		return err
	}
	return run(ctx, cfg, os.Stdout)
}

func parseFlags(args []string, out io.Writer) (config, error) {
	flags := flag.NewFlagSet("lab", flag.ContinueOnError)
	flags.SetOutput(out)
	mapping := flags.String("nat", "preserving", "`mapping` of the NATs: preserving, shifting or dependent")
	reset := flags.Bool("reset", false, "the NATs answer unsolicited SYNs with a RST")
	rtt := flags.Duration("rtt", 20*time.Millisecond, "round trip `time` of the wire")
	if err := flags.Parse(args); err != nil {
		return config{}, err
	}
	if flags.NArg() > 0 {
		return config{}, fmt.Errorf("%q: the only command is punch", flags.Arg(0))
	}
	cfg := config{nat: lab.NAT{Outside: wire}, rtt: *rtt}
	if *reset {
		cfg.nat.Unsolicited = lab.Reset
	}
	var err error
	cfg.nat.Mapping, err = parseMapping(*mapping)
	return cfg, err
}

func parseMapping(name string) (lab.Mapping, error) {
	switch name {
	case "preserving":
		return lab.PortPreserving, nil
	case "shifting":
		return lab.PortShifting, nil
	case "dependent":
		return lab.AddressAndPortDependent, nil
	}
	return 0, fmt.Errorf("-nat %s: want preserving, shifting or dependent", name)
}

// run builds the network, plays the scene and draws it.
func run(ctx context.Context, cfg config, out io.Writer) error {
	n, err := lab.Build(ctx, topology(cfg))
	if err != nil {
		return err
	}
	seen, err := play(ctx, n)
	if err := errors.Join(err, n.Close()); err != nil {
		return fmt.Errorf("%w\n%s", err, n.Output())
	}
	_, err = io.WriteString(out, drawTopology(cfg)+"\n"+drawMappings(seen.mappings)+"\n"+drawSYNs(seen.packets))
	return err
}
