package foreign_test

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestNetcatReads reads answers with nc. It sends a request or nothing, and its
// standard input ends at once or later.
func TestNetcatReads(t *testing.T) {
	nc := program(t, "nc")
	onBoth(t, func(t *testing.T, s site) {
		for _, size := range []int{100, 50_000, 6_000_000} {
			for _, request := range []int{0, 100} {
				for _, holds := range []time.Duration{0, 500 * time.Millisecond} {
					netcatReads(t, s, command{Args: []string{nc}, Input: request, Holds: holds}, size)
				}
			}
		}
	})
}

func netcatReads(t *testing.T, s site, nc command, size int) {
	m := answers
	if nc.Input > 0 {
		m = replies
	}
	addrs := s.mustServe(t, service{Manner: m, Size: size})
	name := fmt.Sprintf("nc sends %d B, then EOF after %v, reads %d B", nc.Input, nc.Holds, size)
	compare(t, row{name: name, tries: 20, atOnce: 5}, func(k stack, _ int) error {
		host, port := split(addrs[k])
		c := nc
		c.Args = append(slices.Clone(c.Args), host, port)
		return s.whole(t.Context(), c, size, 1)
	})
}

// TestNetcatPipe reads with nc into a program that begins to read after 2 s.
func TestNetcatPipe(t *testing.T) {
	nc := program(t, "nc")
	onBothAtOnce(t, func(t *testing.T, s site) {
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
