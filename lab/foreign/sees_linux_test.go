package foreign_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestSees compares what the system shows a peer after Close with what it shows after
// package net's: poll, epoll, select, getpeername, SO_ERROR, recv and shutdown.
func TestSees(t *testing.T) {
	onBothAtOnce(t, func(t *testing.T, s site) {
		for _, delay := range []time.Duration{0, 10 * time.Millisecond, 1500 * time.Millisecond} {
			t.Run(fmt.Sprint(delay), func(t *testing.T) { testSees(t, s, delay) })
		}
	})
}

func testSees(t *testing.T, s site, delay time.Duration) {
	late := fmt.Sprintf("--delay=%f", delay.Seconds())
	for _, flags := range [][]string{{late}, {late, "--reads"}} {
		for _, size := range []int{0, 100} {
			name := fmt.Sprintf("python sees %s, %d B", strings.Join(flags, " "), size)
			compareSights(t, name+", accepted", accepted(t, s, service{Manner: answers, Size: size}, flags))
			compareSights(t, name+", accepted, asked", accepted(t, s, service{Manner: replies, Size: size}, append(flags, "--says=hello")))
			compareSights(t, name+", dialed", dialed(t, s, size, flags))
		}
	}
}

// sight is a try that returns what a peer saw.
type sight func(k stack) (string, error)

// accepted lets a peer dial us.
func accepted(t *testing.T, s site, v service, flags []string) sight {
	py := program(t, "python3")
	addrs := s.mustServe(t, v)
	return func(k stack) (string, error) {
		out, err := s.run(t.Context(), python(py, seesPy, addrs[k], flags...))
		return out.shown(err)
	}
}

// dialed lets us dial a peer.
func dialed(t *testing.T, s site, size int, flags []string) sight {
	py := program(t, "python3")
	return func(k stack) (string, error) {
		port, err := s.port(t.Context())
		if err != nil {
			return "", err
		}
		addr := fmt.Sprintf("%s:%d", s.theirsAt, port)
		c := python(py, seesPy, addr, append(flags, "--listen")...)
		c.Port = port
		id, err := s.start(t.Context(), c)
		if err != nil {
			return "", err
		}
		if err := s.dialAndClose(t.Context(), k, addr, size); err != nil {
			return "", err
		}
		out, err := s.finish(t.Context(), id)
		return out.shown(err)
	}
}

func (s site) dialAndClose(ctx context.Context, k stack, to string, size int) error {
	return s.n.Call(ctx, s.ours, "send", sending{Stack: k, From: s.oursAt, To: to, Size: size}, nil)
}

// shown returns the line that sees.py printed.
func (o outcome) shown(err error) (string, error) {
	if err == nil && (o.Killed || o.Exit != "") {
		err = fmt.Errorf("%s %s", o.Exit, o.Err)
	}
	return strings.TrimSpace(o.Out), err
}

// compareSights demands that the transport's peers see nothing that package net's do
// not.
func compareSights(t *testing.T, name string, look sight) {
	t.Helper()
	var mu sync.Mutex
	seen := map[stack]map[string]int{transport: {}, packageNet: {}}
	const tries = 5
	note := func(k stack) error {
		line, err := look(k)
		mu.Lock()
		defer mu.Unlock()
		seen[k][line]++
		return err
	}
	// Package net's are all seen first, since each of ours must be among them.
	var faults []error
	for range tries {
		faults = append(faults, note(packageNet))
	}
	if err := errors.Join(faults...); err != nil {
		t.Fatalf("%s: package net: %v", name, err)
	}
	theirs := slices.Sorted(maps.Keys(seen[packageNet]))
	compare(t, row{name: name, tries: tries, atOnce: 2}, func(k stack, _ int) error {
		line, err := look(k)
		if err == nil && k == transport && !slices.Contains(theirs, line) {
			err = fmt.Errorf("sees\n    %s\n  and of package net\n    %s", line, strings.Join(theirs, "\n    "))
		}
		return err
	})
}
