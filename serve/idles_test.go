package serve

import (
	"testing"
	"time"
)

func TestIdles(t *testing.T) {
	const patience = time.Second
	for _, tt := range []struct {
		name string
		call call
		traffic
		want bool
	}{
		{"new and quiet", call{kind: fresh}, traffic{quiet: patience}, true},
		{"new", call{kind: fresh}, traffic{quiet: patience - 1}, false},
		{"new, has spoken", call{kind: fresh}, traffic{received: 1, quiet: patience}, false},
		{"new, FIN", call{kind: fresh}, traffic{quiet: patience, input: true}, false},
		{"new layer, quiet", call{kind: freshLayer}, traffic{received: 500, quiet: patience}, true},
		{"new layer", call{kind: freshLayer}, traffic{received: 500, quiet: patience - 1}, false},
		{"new layer, input", call{kind: freshLayer}, traffic{received: 500, quiet: patience, input: true}, false},
		{"called again, nothing came", call{kind: again, heard: 500}, traffic{received: 500}, true},
		{"called again, more came", call{kind: again, heard: 500}, traffic{received: 501, quiet: patience}, false},
		{"called again, FIN", call{kind: again, heard: 500}, traffic{received: 500, input: true}, false},
		{"called for input", call{kind: busy}, traffic{quiet: patience}, false},
	} {
		if got := tt.call.idles(tt.traffic, patience); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
