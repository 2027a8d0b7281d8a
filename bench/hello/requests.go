//go:build linux

package main

import (
	"fmt"
	"os"
	"slices"
	"time"
)

// sample is one measurement of requests.
type sample struct {
	perSecond float64
	cpu       time.Duration // of the server, per request
}

// compareRequests measures the servers in turn, so that other work of the machine
// affects all alike, and prints the medians.
func compareRequests(servers []server, d time.Duration, rounds, conns int) error {
	samples := make([][]sample, len(servers))
	for range rounds {
		for i, s := range servers {
			m, err := s.measureRequests(conns, d)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			samples[i] = append(samples[i], m)
		}
	}
	fmt.Printf("A connection per request, %d at once, median of %d times %v:\n", conns, rounds, d)
	base := median(samples[0])
	for i, s := range servers {
		m := median(samples[i])
		fmt.Printf("  %-32s %7.0f requests/s (%.2f)   %6.1f us CPU a request (%.2f)\n", s.name,
			m.perSecond, m.perSecond/base.perSecond,
			float64(m.cpu.Nanoseconds())/1000, float64(m.cpu)/float64(base.cpu))
	}
	return nil
}

// median returns the medians of both figures.
func median(s []sample) sample {
	var rate []float64
	var cpu []time.Duration
	for _, m := range s {
		rate, cpu = append(rate, m.perSecond), append(cpu, m.cpu)
	}
	slices.Sort(rate)
	slices.Sort(cpu)
	return sample{rate[len(s)/2], cpu[len(s)/2]}
}

func (s server) measureRequests(conns int, d time.Duration) (sample, error) {
	p, port, err := s.run()
	if err != nil {
		return sample{}, err
	}
	defer p.stop()
	if _, err := requests(port, conns, d/10); err != nil { // to warm up
		return sample{}, err
	}
	before, err := p.cpu()
	if err != nil {
		return sample{}, err
	}
	n, err := requests(port, conns, d)
	if err != nil {
		return sample{}, err
	}
	after, err := p.cpu()
	if err != nil {
		return sample{}, err
	}
	return sample{float64(n) / d.Seconds(), (after - before) / time.Duration(n)}, nil
}

// requests runs the load for d in a process of its own.
func requests(port, conns int, d time.Duration) (n int, err error) {
	client := child(self("load", port, conns, int(d)), "GOMAXPROCS=1")
	client.Stderr = os.Stderr
	out, err := client.Output()
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscan(string(out), &n)
	if err == nil && n == 0 {
		err = fmt.Errorf("no request was answered")
	}
	return n, err
}
