//go:build linux

package main

import (
	"fmt"
	"log/slog"
	"regexp"
	"slices"
)

// Plan is what to run. It is sent to the processes in namespaces, so it holds only
// names.
type Plan struct {
	Scale     string // full, quick or smoke
	Scenarios []string
	Peers     []string
}

// scaleOf returns the scale of that name.
func scaleOf(name string) (scale, error) {
	switch name {
	case "full":
		return fullScale(), nil
	case "quick":
		return quickScale(), nil
	case "smoke":
		return smokeScale(), nil
	}
	return scale{}, fmt.Errorf("no scale %q", name)
}

// newPlan selects the scenarios that match, and the peers; none means all.
func newPlan(scaleName, match string, peers []string) (Plan, []Scenario, error) {
	sz, err := scaleOf(scaleName)
	if err != nil {
		return Plan{}, nil, err
	}
	re, err := regexp.Compile(match)
	if err != nil {
		return Plan{}, nil, err
	}
	if err := knownPeers(peers); err != nil {
		return Plan{}, nil, err
	}
	rows := slices.DeleteFunc(scenarios(sz), func(sc Scenario) bool { return !re.MatchString(sc.Name) })
	if len(rows) == 0 {
		return Plan{}, nil, fmt.Errorf("no scenario matches %q", match)
	}
	return Plan{Scale: scaleName, Scenarios: names(rows), Peers: peers}, rows, nil
}

// knownPeers returns an error if a name is not that of a peer.
func knownPeers(names []string) error {
	for _, name := range names {
		if _, err := allPeers().find(name); err != nil {
			return err
		}
	}
	return nil
}

// names returns the names of the scenarios.
func names(rows []Scenario) []string {
	var list []string
	for _, sc := range rows {
		list = append(list, sc.Name)
	}
	return list
}

// peers returns the implementations that the plan names, or all.
func (p Plan) peers() Peers {
	if len(p.Peers) == 0 {
		return allPeers()
	}
	return slices.DeleteFunc(allPeers(), func(x Peer) bool { return !slices.Contains(p.Peers, x.Name) })
}

// run runs the plan in ar, where all its scenarios belong.
func (p Plan) run(ar *arena) ([]Result, error) {
	sz, err := scaleOf(p.Scale)
	if err != nil {
		return nil, err
	}
	var results []Result
	for _, sc := range scenarios(sz) {
		if slices.Contains(p.Scenarios, sc.Name) {
			slog.Info("measuring", "scenario", sc.Title)
			results = append(results, runScenario(sc, ar, p.peers(), sz)...)
		}
	}
	return results, nil
}

// runAll runs each scenario where it belongs: those with links in a namespace for
// each number of links, the others on this machine's loopback.
func (p Plan) runAll(rows []Scenario) []Result {
	var all []Result
	for _, links := range linkCounts(rows) {
		here := slices.DeleteFunc(slices.Clone(rows), func(sc Scenario) bool { return sc.Links != links })
		part := p
		part.Scenarios = names(here)
		results, err := part.runAmong(links)
		if err != nil {
			slog.Error("not measured", "links", links, "err", err)
			results = part.unmeasured(err)
		}
		all = append(all, results...)
	}
	return all
}

// linkCounts returns the numbers of links that the scenarios ask for.
func linkCounts(rows []Scenario) []int {
	var counts []int
	for _, sc := range rows {
		counts = append(counts, sc.Links)
	}
	slices.Sort(counts)
	return slices.Compact(counts)
}

// runAmong runs a part of a plan among that many links; 0 means this machine.
func (p Plan) runAmong(links int) ([]Result, error) {
	if links == 0 {
		return p.run(loopbackArena())
	}
	return inNamespace(NamespaceArgs{Links: links, Plan: p})
}

// unmeasured returns the results of scenarios that could not run at all.
func (p Plan) unmeasured(err error) []Result {
	var results []Result
	for _, sc := range p.Scenarios {
		for _, peer := range p.peers() {
			results = append(results, Result{Scenario: sc, Peer: peer.Name, Err: err.Error()})
		}
	}
	return results
}
