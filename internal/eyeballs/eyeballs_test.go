package eyeballs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// An address is how a host behaves.
type address struct {
	name  string
	after time.Duration // it answers; zero is never
	err   error         // its answer, or nil if it connects
}

var errRefused = errors.New("refused")

// a world dials addresses and keeps a log.
type world struct {
	start     time.Time
	discarded atomic.Int32

	mu    sync.Mutex
	began []string // what was dialed, and when
}

func (w *world) dial(ctx context.Context, to address) (string, error) {
	w.mu.Lock()
	w.began = append(w.began, fmt.Sprint(to.name, " ", time.Since(w.start)))
	w.mu.Unlock()
	answer := make(<-chan time.Time)
	if to.after > 0 {
		answer = time.After(to.after)
	}
	select {
	case <-answer:
		return to.name, to.err
	case <-ctx.Done():
		return "", fmt.Errorf("%s: %w", to.name, ctx.Err())
	}
}

const delay = 250 * time.Millisecond

// TestRace has the courses of a race. Each line says when which address is dialed, who wins and
// when.
func TestRace(t *testing.T) {
	live := address{"live", 20 * time.Millisecond, nil}
	slow := address{"slow", 400 * time.Millisecond, nil}
	silent := address{"silent", 0, nil}
	refusing := address{"refusing", 10 * time.Millisecond, errRefused}
	for _, row := range []struct {
		why   string
		addrs []address
		began []string
		won   string
		after time.Duration
	}{
		{"one address", []address{live}, []string{"live 0s"}, "live", 20 * time.Millisecond},
		{"the first is fine", []address{live, slow}, []string{"live 0s"}, "live", 20 * time.Millisecond},
		{"the first is silent", []address{silent, live}, []string{"silent 0s", "live 250ms"}, "live", 270 * time.Millisecond},
		{"the first refuses", []address{refusing, live}, []string{"refusing 0s", "live 10ms"}, "live", 30 * time.Millisecond},
		{"the first is slow and still wins", []address{slow, slow}, []string{"slow 0s", "slow 250ms"}, "slow", 400 * time.Millisecond},
		{"a failure starts the next, and the pause begins anew", []address{refusing, silent, live},
			[]string{"refusing 0s", "silent 10ms", "live 260ms"}, "live", 280 * time.Millisecond},
		{"a failure beside one under way starts the next", []address{slow, refusing, live},
			[]string{"slow 0s", "refusing 250ms", "live 260ms"}, "live", 280 * time.Millisecond},
		{"all refuse", []address{refusing, refusing, refusing}, []string{"refusing 0s", "refusing 10ms", "refusing 20ms"}, "", 30 * time.Millisecond},
		{"all are silent", []address{silent, silent}, []string{"silent 0s", "silent 250ms"}, "", 5 * time.Second},
	} {
		t.Run(row.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				w := &world{start: time.Now()}
				won, errs := Race(ctx, row.addrs, delay, w.dial, func(string) { w.discarded.Add(1) })
				if took := time.Since(w.start); won != row.won || took != row.after {
					t.Errorf("%q won after %v, want %q after %v", won, took, row.won, row.after)
				}
				synctest.Wait()
				if !slices.Equal(w.began, row.began) {
					t.Errorf("dialed %q, want %q", w.began, row.began)
				}
				if (won == "") != (len(errs) == len(row.addrs)) {
					t.Errorf("errors %v", errs)
				}
			})
		})
	}
}

// TestRaceDiscards: an address that connects after the race goes to discard. One that is under
// way is ended.
func TestRaceDiscards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var discarded, ended []string
		stubborn := func(ctx context.Context, name string) (string, error) {
			if name == "fast" {
				time.Sleep(time.Second)
				return name, nil
			}
			<-ctx.Done()
			ended = append(ended, name)
			return name, nil
		}
		won, errs := Race(t.Context(), []string{"slow", "fast"}, delay, stubborn, func(name string) { discarded = append(discarded, name) })
		synctest.Wait()
		if won != "fast" || errs != nil || !slices.Equal(ended, []string{"slow"}) || !slices.Equal(discarded, []string{"slow"}) {
			t.Errorf("%q won, errors %v, ended %q, discarded %q", won, errs, ended, discarded)
		}
	})
}

// TestRaceErrors: the errors are in the order in which they came.
func TestRaceErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		errLate := errors.New("late")
		addrs := []address{{"late", time.Second, errLate}, {"refusing", time.Millisecond, errRefused}}
		w := &world{start: time.Now()}
		if _, errs := Race(t.Context(), addrs, delay, w.dial, nil); !slices.Equal(errs, []error{errRefused, errLate}) {
			t.Errorf("%v", errs)
		}
	})
}

// TestRaceEnded: once ctx has ended no more addresses are dialed, but the first, for its error.
func TestRaceEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w := &world{start: time.Now()}
		_, errs := Race(ctx, []address{{name: "one"}, {name: "two"}}, delay, w.dial, nil)
		if len(errs) != 1 || !errors.Is(errs[0], context.Canceled) || len(w.began) != 1 {
			t.Errorf("dialed %q, errors %v", w.began, errs)
		}
	})
}

// TestSerial: a silent address has its share of the time, and at least two seconds.
func TestSerial(t *testing.T) {
	silent, live := address{name: "silent"}, address{"live", time.Millisecond, nil}
	for _, row := range []struct {
		limit time.Duration
		addrs []address
		began []string
		won   string
	}{
		{0, []address{live, live}, []string{"live 0s"}, "live"},
		{20 * time.Second, []address{silent, live}, []string{"silent 0s", "live 10s"}, "live"},
		{5 * time.Second, []address{silent, silent, silent, silent, silent, live}, []string{"silent 0s", "silent 2s", "silent 4s"}, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx := t.Context()
			if row.limit > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, row.limit)
				defer cancel()
			}
			w := &world{start: time.Now()}
			won, errs := Serial(ctx, row.addrs, w.dial)
			if won != row.won || !slices.Equal(w.began, row.began) || won == "" && len(errs) != len(row.began) {
				t.Errorf("%v: %q won, dialed %q, errors %v", row.limit, won, w.began, errs)
			}
		})
	}
}

func TestInterleave(t *testing.T) {
	isUpper := func(s string) bool { return s < "a" }
	for in, want := range map[string]string{
		"": "", "a": "a", "A": "A", "abAB": "AaBb", "abcA": "Aabc", "ABa": "AaB", "ab": "ab",
	} {
		var letters []string
		for _, c := range in {
			letters = append(letters, string(c))
		}
		got := ""
		for _, c := range Interleave(letters, isUpper) {
			got += c
		}
		if got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
