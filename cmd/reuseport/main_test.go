package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestDemo runs the demonstration itself and reads its table.
func TestDemo(t *testing.T) {
	var out bytes.Buffer
	if status := run([]string{"demo"}, &out, &out); status != 0 {
		t.Fatalf("status %d:\n%s", status, out.String())
	}
	for _, want := range []string{"4-tuple in use", "self-connection", "connection refused", "4 reused, 2 from a new port, 1 failed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"dome"}, {"demo", "x"}} {
		var out, errs bytes.Buffer
		if status := run(args, &out, &errs); status != 2 || errs.String() != usage || out.Len() > 0 {
			t.Errorf("%q: status %d, %q, %q", args, status, out.String(), errs.String())
		}
	}
	var out bytes.Buffer
	if status := run([]string{"help"}, &out, &out); status != 0 || out.String() != usage {
		t.Errorf("help: status %d, %q", status, out.String())
	}
}
