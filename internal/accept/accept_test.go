package accept_test

import (
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/reusetransport/reuseport/internal/accept"
)

var (
	errStarved = foreignError{temporary: true}
	errOther   = errors.New("other")
)

// script returns an accept function that goes through errs; nil is a success
// that returns its place in the script.
func script(errs ...error) func() (int, error) {
	i := -1
	return func() (int, error) {
		i++
		return i, errs[i]
	}
}

func record(into *[]accept.Event) func(accept.Event) {
	return func(e accept.Event) { *into = append(*into, e) }
}

func waits(events []accept.Event) []time.Duration {
	var d []time.Duration
	for _, e := range events {
		d = append(d, e.Wait)
	}
	return d
}

func TestNextDoublesAndResets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []accept.Event
		b := &accept.Backoff{Max: 15 * time.Millisecond, Notify: record(&events)}
		f := script(errStarved, errStarved, errStarved, errStarved, nil, errStarved, nil)
		start := time.Now()
		for _, want := range []int{4, 6} {
			if got, err := accept.Next(b, nil, f); got != want || err != nil {
				t.Fatalf("got %d, %v; want %d", got, err, want)
			}
		}
		const ms = time.Millisecond
		if want := []time.Duration{5 * ms, 10 * ms, 15 * ms, 15 * ms, 5 * ms}; !slices.Equal(waits(events), want) {
			t.Errorf("waits %v, want %v", waits(events), want)
		}
		if d := time.Since(start); d != 50*ms {
			t.Errorf("waited %v, want 50ms", d)
		}
	})
}

func TestNextFixedDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []accept.Event
		const d = 2 * time.Second
		b := &accept.Backoff{Min: d, Max: d, Notify: record(&events)}
		if _, err := accept.Next(b, nil, script(errStarved, errStarved, nil)); err != nil {
			t.Fatal(err)
		}
		if want := []time.Duration{d, d}; !slices.Equal(waits(events), want) {
			t.Errorf("waits %v, want %v", waits(events), want)
		}
	})
}

// A success in the middle does not begin a burst: the log stays readable when
// each connection that ends lets one more in.
func TestNextFirstOncePerBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []accept.Event
		b := &accept.Backoff{Notify: record(&events)}
		f := script(errStarved, errStarved, nil, errStarved, nil, errStarved, nil)
		for i := range 3 {
			if _, err := accept.Next(b, nil, f); err != nil {
				t.Fatal(err)
			}
			if i == 1 {
				time.Sleep(11 * time.Second)
			}
		}
		var first []bool
		for _, e := range events {
			first = append(first, e.First)
		}
		if want := []bool{true, false, false, true}; !slices.Equal(first, want) {
			t.Errorf("First %v, want %v", first, want)
		}
	})
}

// TestNextLimits: what Min and Max mean where they are zero, tiny, or the wrong way round.
func TestNextLimits(t *testing.T) {
	const ms = time.Millisecond
	for _, row := range []struct {
		min, max time.Duration
		want     []time.Duration
	}{
		{0, 0, []time.Duration{5 * ms, 10 * ms, 20 * ms, 40 * ms, 80 * ms, 160 * ms, 320 * ms, 640 * ms, time.Second, time.Second}},
		{-1, -1, []time.Duration{5 * ms, 10 * ms}},
		{1, 1, []time.Duration{1, 1}},
		{20 * ms, 10 * ms, []time.Duration{20 * ms, 20 * ms}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var events []accept.Event
			b := &accept.Backoff{Min: row.min, Max: row.max, Notify: record(&events)}
			errs := append(slices.Repeat([]error{errStarved}, len(row.want)), nil)
			if _, err := accept.Next(b, nil, script(errs...)); err != nil {
				t.Fatal(err)
			}
			if got := waits(events); !slices.Equal(got, row.want) {
				t.Errorf("Min %v, Max %v: waits %v, want %v", row.min, row.max, got, row.want)
			}
		})
	}
}

// TestNextRelieves: where Relieve frees descriptors, the accept is tried again at once and nobody is
// told. It is not asked about other errors.
func TestNextRelieves(t *testing.T) {
	noDescriptors := os.NewSyscallError("accept", syscall.EMFILE)
	for _, row := range []struct {
		err           error
		frees         bool
		asked, waited int
	}{{noDescriptors, true, 1, 0}, {noDescriptors, false, 1, 1}, {errStarved, true, 0, 1}} {
		synctest.Test(t, func(t *testing.T) {
			asked, waited := 0, 0
			b := &accept.Backoff{
				Relieve: func() bool { asked++; return row.frees },
				Notify:  func(accept.Event) { waited++ },
			}
			if got, err := accept.Next(b, nil, script(row.err, nil)); got != 1 || err != nil {
				t.Errorf("%d, %v", got, err)
			}
			if asked != row.asked || waited != row.waited {
				t.Errorf("%v, frees %v: asked %d times, waited %d; want %d and %d", row.err, row.frees, asked, waited, row.asked, row.waited)
			}
		})
	}
	if _, err := accept.Next(new(accept.Backoff), nil, script(noDescriptors, nil)); err != nil {
		t.Errorf("without Relieve: %v", err)
	}
}

func TestNextReturnsWhatIsNotItsOwn(t *testing.T) {
	for _, want := range []error{errOther, net.ErrClosed} {
		b := &accept.Backoff{Notify: func(e accept.Event) { t.Errorf("swallowed %v", e.Err) }}
		if _, err := accept.Next(b, nil, script(want)); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

func TestNextWokenByClose(t *testing.T) {
	b := &accept.Backoff{Min: time.Hour}
	closed, waiting := make(chan struct{}), make(chan struct{})
	b.Notify = func(accept.Event) { close(waiting) }
	done := make(chan error)
	go func() {
		_, err := accept.Next(b, closed, script(errStarved))
		done <- err
	}()
	<-waiting
	close(closed)
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", err)
	}
}

// Many goroutines may accept from one socket: no error is lost in the count.
func TestNextConcurrently(t *testing.T) {
	var calls, seen atomic.Int64
	b := &accept.Backoff{Min: 1, Max: 1, Notify: func(accept.Event) { seen.Add(1) }}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if _, err := accept.Next(b, nil, func() (int, error) {
					if calls.Add(1)%2 == 0 {
						return 0, errStarved
					}
					return 0, nil
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if want := calls.Load() / 2; seen.Load() != want {
		t.Errorf("%d errors seen, want %d", seen.Load(), want)
	}
}
