package libp2ptcp_test

import (
	"os"
	"strings"
	"testing"
)

// TestReadme wants the README to show the example that CI compiles, and to list
// every metric that promstats does not list.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	check(t, err)
	example, err := os.ReadFile("examples/host/main.go")
	check(t, err)
	_, program, ok := strings.Cut(string(example), "package main")
	if !ok || !strings.Contains(string(readme), "package main"+program) {
		t.Error("README.md does not show examples/host/main.go as it is")
	}
	for _, name := range ownMetricNames(t) {
		if !strings.Contains(string(readme), "`"+name+"`") {
			t.Errorf("README.md does not name %s", name)
		}
	}
}
