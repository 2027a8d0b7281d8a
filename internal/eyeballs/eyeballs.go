// Package eyeballs dials the addresses of a name, one beside the other as RFC 8305 has it or
// one after the other. It knows no sockets: it gets the function that dials.
package eyeballs

import (
	"context"
	"time"
)

// A DialFunc dials one address until ctx ends.
type DialFunc[A, C any] func(ctx context.Context, to A) (C, error)

// Interleave returns addrs with those of the two kinds in turn, each kind in its order, first
// the kind of which is reports true (RFC 8305, section 4). It leaves addrs as it is.
func Interleave[A any](addrs []A, is func(A) bool) []A {
	var kinds [2][]A
	for _, a := range addrs {
		if is(a) {
			kinds[0] = append(kinds[0], a)
		} else {
			kinds[1] = append(kinds[1], a)
		}
	}
	turns := make([]A, 0, len(addrs))
	for i := range addrs {
		for _, kind := range kinds {
			if i < len(kind) {
				turns = append(turns, kind[i])
			}
		}
	}
	return turns
}

// Race dials addrs, each on a goroutine of its own. The next one starts delay after the one
// before, and at once when one has failed. The first to connect is the
// result; the others are ended, and discard gets those that connect all the same. If none
// connects, Race returns the errors in the order in which they came. Once ctx has ended it
// dials no more of them, but the first, for its error.
func Race[A, C any](ctx context.Context, addrs []A, delay time.Duration, dial DialFunc[A, C], discard func(C)) (C, []error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &race[A, C]{ctx: ctx, addrs: addrs, dial: dial, discard: discard, results: make(chan result[C]), over: make(chan struct{})}
	defer close(r.over)
	return r.run(delay)
}

type race[A, C any] struct {
	ctx     context.Context
	addrs   []A // that have not started
	dial    DialFunc[A, C]
	discard func(C)
	running int
	results chan result[C]
	over    chan struct{} // closed when nobody takes results any more
}

type result[C any] struct {
	conn C
	err  error
}

func (r *race[A, C]) run(delay time.Duration) (conn C, errs []error) {
	next := time.NewTimer(delay)
	defer next.Stop()
	for r.start(); r.running > 0; {
		select {
		case <-next.C:
			r.start()
			next.Reset(delay)
		case res := <-r.results:
			if res.err == nil {
				return res.conn, nil
			}
			errs = append(errs, res.err)
			if r.running--; r.ctx.Err() == nil {
				r.start()
				next.Reset(delay)
			}
		}
	}
	return conn, errs
}

// start dials the next address, if there is one.
func (r *race[A, C]) start() {
	if len(r.addrs) == 0 {
		return
	}
	to := r.addrs[0]
	r.addrs = r.addrs[1:]
	r.running++
	go r.one(to)
}

func (r *race[A, C]) one(to A) {
	conn, err := r.dial(r.ctx, to)
	select {
	case r.results <- result[C]{conn, err}:
	case <-r.over:
		if err == nil {
			r.discard(conn)
		}
	}
}

// leastShare is the least time that Serial gives an address while there is so much, as package
// net does.
const leastShare = 2 * time.Second

// Serial dials addrs one after the other on the caller's goroutine. Each has a fair share of the
// time that is left until ctx ends, so that a silent one leaves time for the next. The result is
// as Race's.
func Serial[A, C any](ctx context.Context, addrs []A, dial DialFunc[A, C]) (conn C, errs []error) {
	for i, to := range addrs {
		conn, err := dialShare(ctx, to, len(addrs)-i, dial)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if hasEnded(ctx) {
			break
		}
	}
	return conn, errs
}

// hasEnded reports whether ctx has ended, or is about to: a share that lasts until its deadline
// may end before it.
func hasEnded(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

func dialShare[A, C any](ctx context.Context, to A, left int, dial DialFunc[A, C]) (C, error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, share(time.Until(deadline), left))
		defer cancel()
	}
	return dial(ctx, to)
}

// share returns the time for the next of left addresses.
func share(rest time.Duration, left int) time.Duration {
	return min(max(rest/time.Duration(left), leastShare), rest)
}
