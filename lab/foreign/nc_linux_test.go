package foreign_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestNetcatReads reads answers with nc. It sends nothing or a request, and its
// standard input ends at once or later; with -N its FIN follows.
func TestNetcatReads(t *testing.T) {
	nc := program(t, "nc")
	silent, asks := command{Args: []string{nc}}, command{Args: []string{nc}, Input: 100}
	later, ends := asks, asks
	later.Holds, ends.Args = 500*time.Millisecond, []string{nc, "-N"}
	onBoth(t, func(t *testing.T, s site) {
		for _, size := range []int{100, 50_000} {
			for _, c := range []command{silent, asks, later, ends} {
				netcatReads(t, s, c, size)
			}
		}
		netcatReads(t, s, asks, 6_000_000)
	})
}

func netcatReads(t *testing.T, s site, c command, size int) {
	m := answers
	if c.Input > 0 {
		m = replies
	}
	addrs := s.mustServe(t, service{Manner: m, Size: size})
	name := fmt.Sprintf("%s sends %d B, EOF after %v, reads %d B", strings.Join(append([]string{"nc"}, c.Args[1:]...), " "), c.Input, c.Holds, size)
	compare(t, row{name: name, tries: 20, atOnce: 5}, func(k stack, _ int) error {
		host, port := split(addrs[k])
		with := c
		with.Args = append(slices.Clone(c.Args), host, port)
		return s.whole(t.Context(), with, size, 1)
	})
}

// TestNetcatPipe reads with nc into a program that begins to read after 2 s.
func TestNetcatPipe(t *testing.T) {
	nc := program(t, "nc")
	onBoth(t, func(t *testing.T, s site) {
		const size = 120_000
		addrs := s.mustServe(t, service{Manner: answers, Size: size})
		compare(t, row{name: "nc | (sleep 2; cat), 120 kB", tries: 5, atOnce: 5}, func(k stack, _ int) error {
			host, port := split(addrs[k])
			script := fmt.Sprintf("%s %s %s | (sleep 2; cat)", nc, host, port)
			return s.whole(t.Context(), command{Args: []string{"sh", "-c", script}}, size, 1)
		})
	})
}

// TestNetcatListens sends to nc -l.
func TestNetcatListens(t *testing.T) {
	nc := program(t, "nc")
	onBoth(t, func(t *testing.T, s site) {
		for _, size := range []int{1000, 200_000} {
			compare(t, row{name: fmt.Sprintf("sends %d B to nc -l", size), tries: 20, atOnce: 2}, func(k stack, _ int) error {
				return s.send(t.Context(), k, size, func(port int) command {
					return command{Args: []string{nc, "-l", s.theirsAt, fmt.Sprint(port)}}
				})
			})
		}
	})
}
