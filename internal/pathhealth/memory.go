package pathhealth

import "time"

// A memory holds what was learnt lately about things that K tells apart: no more than max of
// them, of which the oldest makes room, and none for longer than forgetAfter without news.
type memory[K comparable, V any] struct {
	max     int
	entries map[K]*entry[V]
}

type entry[V any] struct {
	learnt time.Time
	what   V
}

func newMemory[K comparable, V any](max int) memory[K, V] {
	return memory[K, V]{max: max, entries: make(map[K]*entry[V])}
}

// recall returns what is known, or nil.
func (m *memory[K, V]) recall(key K, now time.Time) *V {
	e := m.entries[key]
	switch {
	case e == nil:
		return nil
	case now.Sub(e.learnt) >= forgetAfter:
		delete(m.entries, key)
		return nil
	}
	return &e.what
}

// learn returns the place of new evidence.
func (m *memory[K, V]) learn(key K, now time.Time) *V {
	if m.recall(key, now) == nil {
		if len(m.entries) >= m.max {
			m.forget(m.oldest())
		}
		m.entries[key] = &entry[V]{}
	}
	e := m.entries[key]
	e.learnt = now
	return &e.what
}

func (m *memory[K, V]) forget(key K) { delete(m.entries, key) }

func (m *memory[K, V]) oldest() (key K) {
	var first time.Time
	for k, e := range m.entries {
		if first.IsZero() || e.learnt.Before(first) {
			key, first = k, e.learnt
		}
	}
	return key
}
