package foreign_test

import (
	"fmt"
	"testing"

	"github.com/reusetransport/reuseport/lab"
)

// TestExit exits right after Close, with a request unread. Package net loses the answer:
// the kernel resets a connection that ends with unread data. The transport has to read
// it away within Close.
func TestExit(t *testing.T) {
	nc := program(t, "nc")
	onBoth(t, func(t *testing.T, s site) {
		const size = 200_000
		for _, shutdown := range []bool{false, true} {
			r := row{name: fmt.Sprintf("nc reads 200 kB, exit after Close, Shutdown %v", shutdown), tries: 10, atOnce: 5, lost: true}
			compare(t, r, func(k stack, _ int) error {
				addr, err := lab.Call[string](t.Context(), s.n, s.ours, "exits",
					child{Stack: k, At: s.oursAt, Size: size, Shutdown: shutdown})
				if err != nil {
					return err
				}
				host, port := split(addr)
				return s.whole(t.Context(), command{Args: []string{nc, host, port}, Input: 1000}, size, 1)
			})
		}
	})
}

// TestHanded hands a listener to a program that knows package net alone, before or
// after clients have connected.
func TestHanded(t *testing.T) {
	onBoth(t, func(t *testing.T, s site) {
		for _, queued := range []bool{false, true} {
			testHanded(t, s, queued)
		}
	})
}

func testHanded(t *testing.T, s site, queued bool) {
	py := program(t, "python3")
	const size, tries = 1_000_000, 5
	addrs := map[stack]string{}
	for _, k := range stacks() {
		addr, err := lab.Call[string](t.Context(), s.n, s.ours, "queue", service{Stack: k, At: s.oursAt})
		if err != nil {
			t.Fatal(err)
		}
		addrs[k] = addr
	}
	handed := make(chan error, 2)
	hand := func(k stack, queue int) {
		handed <- s.n.Call(t.Context(), s.ours, "hand",
			handing{Addr: addrs[k], Queued: queue, Child: child{Size: size, Handed: tries}}, nil)
	}
	for _, k := range stacks() {
		if queued {
			go hand(k, tries)
		} else {
			hand(k, 0)
		}
	}
	r := row{name: fmt.Sprintf("python reads 1 MB from a handed listener, queued before %v", queued), tries: tries, atOnce: tries}
	compare(t, r, func(k stack, _ int) error {
		return s.whole(t.Context(), python(py, readsPy, addrs[k], "--after=1"), size, 1)
	})
	for range stacks() {
		if err := <-handed; err != nil {
			t.Error(err)
		}
	}
}

// TestMultipath reads with a multipath peer from a wrapped multipath listener.
func TestMultipath(t *testing.T) {
	py := program(t, "python3")
	onBoth(t, func(t *testing.T, s site) {
		for _, size := range []int{0, 100, 200_000} {
			for _, m := range []manner{answers, replies} {
				addrs := s.mustServe(t, service{Manner: m, Size: size, Multipath: true})
				r := row{name: fmt.Sprintf("multipath python reads %d B of one who %s", size, m), tries: 10, atOnce: 2}
				flags := []string{"--multipath"}
				if m == replies {
					flags = append(flags, "--says=hello")
				}
				compare(t, r, func(k stack, _ int) error {
					return s.whole(t.Context(), python(py, readsPy, addrs[k], flags...), size, 1)
				})
			}
		}
	})
}
