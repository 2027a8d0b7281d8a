//go:build linux

// Command hello compares examples/hello with a single-threaded epoll server that does
// the same job, side by side in one run. It measures requests per second and CPU time
// per request with one connection per request, and resident memory per idle
// connection. See README.md. All processes are its children and end with it.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "-role" {
		exit(play(os.Args[2], os.Args[3:]))
	}
	runtime.LockOSThread() // the children are killed when the thread that started them ends
	duration := flag.Duration("time", 5*time.Second, "of one measurement of requests")
	rounds := flag.Int("rounds", 3, "measurements of each server, taken in turn")
	conns := flag.Int("conns", 64, "connections at once")
	idle := flag.String("idle", "5000,15000", "numbers of idle connections")
	flag.Parse()
	counts, err := numbers(*idle)
	if err == nil {
		err = compare(*duration, *rounds, *conns, counts)
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "hello:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// play runs a child process in a role.
func play(role string, args []string) error {
	n, err := numbers(strings.Join(args, ","))
	switch {
	case err != nil:
		return err
	case role == "load" && len(n) == 3:
		return load(n[0], n[1], time.Duration(n[2]))
	case role == "idle" && len(n) == 2:
		return hold(n[0], n[1])
	}
	if s, ok := parts[role]; ok && len(n) == 1 {
		return s(n[0])
	}
	return fmt.Errorf("no role %q %v", role, args)
}

func numbers(list string) ([]int, error) {
	var out []int
	for _, s := range strings.Split(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

// compare prints both tables.
func compare(d time.Duration, rounds, conns int, counts []int) error {
	dir, err := os.MkdirTemp("", "hello")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a temporary directory
	servers, err := build(dir)
	if err != nil {
		return err
	}
	if err := compareRequests(append(servers, requestParts()...), d, rounds, conns); err != nil {
		return err
	}
	for _, n := range counts {
		if err := compareIdle(append(servers[:2:2], idleParts()...), n); err != nil {
			return err
		}
	}
	return nil
}
