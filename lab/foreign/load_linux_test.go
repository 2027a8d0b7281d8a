package foreign_test

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"
)

// load is a program that makes many requests and counts them.
type load struct {
	name  string
	args  func(addr string) []string
	rate  *regexp.Regexp   // finds requests per second
	needs []*regexp.Regexp // what it must print
	never []*regexp.Regexp // what it must not print
}

// loads returns the programs that load a server, with connections that close after
// each request and that stay.
func loads(t *testing.T, requests, conns int) []load {
	t.Helper()
	ab, wrk, h2load := program(t, "ab"), program(t, "wrk"), program(t, "h2load")
	n, c := fmt.Sprint(requests), fmt.Sprint(conns)
	byAB := func(name string, flags ...string) load {
		return load{
			name: name,
			args: func(addr string) []string {
				return append(append([]string{ab}, flags...), "-n", n, "-c", c, "http://"+addr+"/")
			},
			rate:  regexp.MustCompile(`Requests per second: +([0-9.]+)`),
			needs: []*regexp.Regexp{regexp.MustCompile(`Complete requests: +` + n), regexp.MustCompile(`Failed requests: +0\n`)},
		}
	}
	byWrk := func(name string, flags ...string) load {
		return load{
			name: name,
			args: func(addr string) []string {
				return append(append([]string{wrk}, flags...), "-t", "1", "-c", c, "-d", "1s", "http://"+addr+"/")
			},
			rate:  regexp.MustCompile(`Requests/sec: +([0-9.]+)`),
			never: []*regexp.Regexp{regexp.MustCompile(`Socket errors`), regexp.MustCompile(`Non-2xx`)},
		}
	}
	byH2load := func(name string, flags ...string) load {
		return load{
			name: name,
			args: func(addr string) []string {
				return append(append([]string{h2load, "--h1"}, flags...), "-n", n, "-c", c, "http://"+addr+"/")
			},
			rate:  regexp.MustCompile(`finished in [^,]+, ([0-9.]+) req/s`),
			needs: []*regexp.Regexp{regexp.MustCompile(n + ` succeeded, 0 failed, 0 errored, 0 timeout`)},
		}
	}
	return []load{
		byAB("ab, close"), byAB("ab, keep-alive", "-k"),
		byWrk("wrk, close", "-H", "Connection: close"), byWrk("wrk, keep-alive"),
		byH2load("h2load, close", "-H", "connection: close"), byH2load("h2load, keep-alive"),
	}
}

// TestLoad runs load generators to their end, without one error. The median ratio of requests
// per second is printed, of two tries or with -long of 15; only half is demanded, since the
// machine may be busy. It runs beside no other test.
func TestLoad(t *testing.T) {
	t.Run("loopback", func(t *testing.T) { testLoad(t, loopback(t), loads(t, 20_000, 32)) })
	t.Run("network", func(t *testing.T) { testLoad(t, network(t, nil), loads(t, 500, 32)) })
}

func testLoad(t *testing.T, s site, all []load) {
	addrs := s.mustServe(t, service{Manner: pages, Size: 100})
	for _, l := range all {
		tries := 2
		if *long {
			tries = 15
		}
		rates := map[stack][]float64{}
		compare(t, row{name: l.name, tries: tries}, func(k stack, _ int) error {
			rate, err := l.run(t.Context(), s, addrs[k])
			rates[k] = append(rates[k], rate)
			return err
		})
		ratio := medianRatio(rates[transport], rates[packageNet])
		t.Logf("%s: %.0f requests/s, %.3f times package net's", l.name, slices.Max(rates[transport]), ratio)
		if ratio < 0.5 {
			t.Errorf("%s: less than half of package net's rate", l.name)
		}
	}
}

// medianRatio returns the median of ours[i] / theirs[i].
func medianRatio(ours, theirs []float64) float64 {
	var ratios []float64
	for i := range ours {
		ratios = append(ratios, ours[i]/theirs[i])
	}
	slices.Sort(ratios)
	return (ratios[len(ratios)/2] + ratios[(len(ratios)-1)/2]) / 2
}

// run loads a server and returns the requests per second.
func (l load) run(ctx context.Context, s site, addr string) (float64, error) {
	out, err := s.run(ctx, command{Args: l.args(addr), Limit: 20 * time.Second})
	if err != nil {
		return 0, err
	}
	if out.Killed {
		return 0, fmt.Errorf("hangs: %s", out.Err)
	}
	for _, r := range l.needs {
		if !r.MatchString(out.Out) {
			return 0, fmt.Errorf("no %q in its report:\n%s%s", r, out.Out, out.Err)
		}
	}
	for _, r := range l.never {
		if r.MatchString(out.Out) {
			return 0, fmt.Errorf("%q in its report:\n%s", r, out.Out)
		}
	}
	found := l.rate.FindStringSubmatch(out.Out)
	if found == nil {
		return 0, fmt.Errorf("no rate in its report:\n%s%s", out.Out, out.Err)
	}
	return strconv.ParseFloat(found[1], 64)
}
