// Command reuseport shows what package reuseport does on this machine.
//
//	reuseport demo        dial between peers on this machine and print a table
//	reuseport available   say whether this system can dial from a listening port
//
// The exit status is 0 if everything went as expected, 1 if not, 2 for wrong usage.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/reusetransport/reuseport"
)

const usage = `usage: reuseport demo | available

  demo        peers on this machine listen and dial each other (IPv4, IPv6,
              dual-stack, a second dial, its own listener, a closed port)
  available   say whether this system can dial from a listening port
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, out, errs io.Writer) int {
	if len(args) != 1 {
		fmt.Fprint(errs, usage)
		return 2
	}
	switch args[0] {
	case "demo":
		return demo(out)
	case "available":
		return available(out)
	case "help", "-h", "-help", "--help":
		fmt.Fprint(out, usage)
		return 0
	}
	fmt.Fprint(errs, usage)
	return 2
}

func available(out io.Writer) int {
	if !reuseport.Available() {
		fmt.Fprintln(out, "no: dials will leave from ephemeral ports")
		return 1
	}
	fmt.Fprintln(out, "yes")
	return 0
}
