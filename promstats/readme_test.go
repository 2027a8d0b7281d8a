package promstats_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
)

// TestReadme wants the README to have the table of the metrics as they are, and the example that
// is compiled.
func TestReadme(t *testing.T) {
	raw, err := os.ReadFile("README.md")
	check(t, err)
	readme := string(raw)
	var rows []string
	for _, f := range gather(t, registry(t)) {
		rows = append(rows, row(f))
	}
	slices.Sort(rows)
	table := "| metric | type | label | what |\n|---|---|---|---|\n" + strings.Join(rows, "\n") + "\n"
	if !strings.Contains(readme, table) {
		t.Errorf("README.md has not this table:\n%s", table)
	}
	example, err := os.ReadFile("example_test.go")
	check(t, err)
	for _, name := range []string{"Example", "Example_several", "Example_expvar"} {
		_, body, ok := strings.Cut(string(example), "func "+name+"() {\n")
		body, _, _ = strings.Cut(body, "\n\t// Output:\n}\n")
		if body = strings.ReplaceAll(body[1:], "\n\t", "\n"); !ok || !strings.Contains(readme, "```go\n"+body+"\n```\n") {
			t.Errorf("README.md does not have %s as it is:\n%s", name, body)
		}
	}
}

// row is what the README says of a metric.
func row(f *dto.MetricFamily) string {
	label, values := "", []string(nil)
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			label = l.GetName() + ": "
			values = append(values, l.GetValue())
		}
	}
	kind := strings.ToLower(f.GetType().String())
	return fmt.Sprintf("| `%s` | %s | %s | %s |", f.GetName(), kind, label+strings.Join(values, ", "), f.GetHelp())
}
