package lab

import "testing"

// A full log keeps its packets and counts further ones until it is cleared.
func TestLogIsBounded(t *testing.T) {
	w := &wire{log: make([]*Packet, 0, maxLog)}
	for range maxLog + 3 {
		w.record(Packet{})
	}
	if l := w.packets(); len(l.Packets) != maxLog || l.Missed != 3 {
		t.Errorf("%d packets and %d missed, want %d and 3", len(l.Packets), l.Missed, maxLog)
	}
	w.clear()
	if l := w.packets(); len(l.Packets) != 0 || l.Missed != 0 {
		t.Errorf("cleared: %d packets and %d missed", len(l.Packets), l.Missed)
	}
}
