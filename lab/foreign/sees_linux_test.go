package foreign_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestSees compares what the system shows a peer after Close with what it shows after
// package net's: poll, epoll, select, getpeername, SO_ERROR, recv and shutdown.
func TestSees(t *testing.T) {
	onBoth(t, func(t *testing.T, s site) {
		for _, delay := range []time.Duration{0, 10 * time.Millisecond, 1500 * time.Millisecond} {
			t.Run(fmt.Sprint(delay), func(t *testing.T) { testSees(t, s, delay) })
		}
	})
}

func testSees(t *testing.T, s site, delay time.Duration) {
	late := fmt.Sprintf("--delay=%f", delay.Seconds())
	var accept, asked, dial []sight
	for _, flags := range [][]string{{late}, {late, "--reads"}} {
		for _, size := range []int{0, 100} {
			accept = append(accept, accepted(t, s, service{Manner: answers, Size: size}, flags))
			asked = append(asked, accepted(t, s, service{Manner: replies, Size: size}, append(flags, "--says=hello")))
			dial = append(dial, dialed(t, s, size, flags))
		}
	}
	compareSights(t, "python sees the close of an accepted connection", accept)
	compareSights(t, "python sees the close of an accepted connection that asked", asked)
	compareSights(t, "python sees the close of a dialed connection", dial)
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
// not. A sight is looked at three times.
func compareSights(t *testing.T, name string, sights []sight) {
	t.Helper()
	began := time.Now()
	r := row{name: name, tries: 3 * len(sights), atOnce: 6}
	ours, theirs := newTally(), newTally()
	var mu sync.Mutex
	shown := map[stack][][]string{transport: make([][]string, len(sights)), packageNet: make([][]string, len(sights))}
	inTurn(r, func(k stack, i int) {
		line, err := sights[i%len(sights)](k)
		switch {
		case k == packageNet:
			theirs.add(err)
		case err != nil:
			ours.add(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		shown[k][i%len(sights)] = append(shown[k][i%len(sights)], line)
	})
	for i, lines := range shown[transport] {
		for _, line := range lines {
			ours.add(amongThem(line, shown[packageNet][i]))
		}
	}
	judge(t, r, ours, theirs, time.Since(began))
}

// amongThem returns an error if a line is none of theirs.
func amongThem(line string, theirs []string) error {
	if slices.Contains(theirs, line) {
		return nil
	}
	slices.Sort(theirs)
	return fmt.Errorf("sees\n    %s\n  and of package net\n    %s", line, strings.Join(slices.Compact(theirs), "\n    "))
}
