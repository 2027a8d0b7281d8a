//go:build linux

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
)

// Result is what one peer did in one scenario.
type Result struct {
	Scenario string   `json:"scenario"`
	Peer     string   `json:"peer"`
	Samples  []Sample `json:"samples,omitempty"`
	Err      string   `json:"error,omitempty"` // why there are no samples
}

// contender is a peer in a scenario while it runs.
type contender struct {
	result Result
	probe  probe
}

// runScenario opens every peer, runs them in turn, in random order within each round,
// and closes them. A peer that fails keeps its error; the others go on.
func runScenario(sc Scenario, ar *arena, peers Peers, sz scale) []Result {
	var field []*contender
	for _, p := range peers {
		c := &contender{result: Result{Scenario: sc.Name, Peer: p.Name}}
		c.fail(c.open(sc, ar, p))
		field = append(field, c)
	}
	if sc.once {
		together(field, sc.lim)
	} else {
		takeTurns(field, sz.lim(sc.lim), sc.roundsAt(sz))
	}
	var results []Result
	for _, c := range field {
		c.fail(c.close())
		results = append(results, c.result)
	}
	return results
}

// roundsAt returns the number of rounds of a scenario at a scale.
func (sc Scenario) roundsAt(sz scale) int {
	if sc.rounds == 0 {
		return sz.rounds
	}
	return max(1, sc.rounds*sz.rounds/fullRounds)
}

// open prepares the peer.
func (c *contender) open(sc Scenario, ar *arena, p Peer) error {
	pr, err := sc.open(ar, p)
	if err == nil {
		c.probe = pr
	}
	return err
}

// takeTurns runs the rounds one after another. The first round warms each peer up and
// does not count.
func takeTurns(field []*contender, lim Limit, rounds int) {
	order := slices.Clone(field)
	for r := range rounds + 1 {
		rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, c := range order {
			c.turn(lim, r > 0)
		}
	}
}

// together runs one round of all peers at the same time.
func together(field []*contender, lim Limit) {
	var wg sync.WaitGroup
	for _, c := range field {
		wg.Go(func() { c.turn(lim, true) })
	}
	wg.Wait()
}

// turn runs one round of one peer.
func (c *contender) turn(lim Limit, counts bool) {
	if c.probe == nil || c.result.Err != "" {
		return
	}
	s, err := c.probe.round(lim)
	if err != nil {
		c.fail(err)
		return
	}
	if counts {
		c.result.Samples = append(c.result.Samples, s)
	}
}

// fail keeps the first error and drops the samples, which would not be comparable.
func (c *contender) fail(err error) {
	if err == nil || c.result.Err != "" {
		return
	}
	c.result.Err = err.Error()
	if errors.Is(err, errors.ErrUnsupported) {
		c.result.Err = "not applicable"
	}
	c.result.Samples = nil
}

// close ends the probe.
func (c *contender) close() error {
	if c.probe == nil {
		return nil
	}
	if err := c.probe.close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}
