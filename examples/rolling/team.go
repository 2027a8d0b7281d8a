//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// team is the workers, one on each socket.
type team struct {
	sockets []*os.File
	workers []*process    // nil before the first
	ended   chan *process // gets each worker that has ended
}

// restartPause is the least time between two starts in one place, so that workers that
// crash at once do not take the whole machine.
const restartPause = time.Second

func newTeam(sockets []*os.File) *team {
	return &team{sockets: sockets, workers: make([]*process, len(sockets)), ended: make(chan *process)}
}

// replaceAll replaces the workers one after the other. If the next one does not start,
// the old one stays. An old worker that had died or had to be killed is replaced too,
// and its error is returned.
func (t *team) replaceAll() error {
	var errs error
	for i, old := range t.workers {
		if err := t.place(i); err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		if old != nil {
			errs = errors.Join(errs, old.stop())
		}
	}
	return errs
}

// place starts the next worker i.
func (t *team) place(i int) error {
	next, err := start(i, t.sockets[i])
	if err != nil {
		return err
	}
	t.workers[i] = next
	go t.watch(next)
	return nil
}

// watch reports the end of a worker.
func (t *team) watch(w *process) {
	<-w.ended
	time.Sleep(time.Until(w.started.Add(restartPause)))
	t.ended <- w
}

// refill starts a worker in the place of one that has ended by itself. The socket is
// still open, so the kernel goes on giving it connections, and they wait in its queue
// for the next worker.
func (t *team) refill(old *process) error {
	i := slices.Index(t.workers, old)
	if i < 0 {
		return nil // it was replaced
	}
	err := fmt.Errorf("worker %d ended: %v", i, old.err)
	if next := t.place(i); next != nil {
		err = errors.Join(err, next)
		time.AfterFunc(restartPause, func() { t.ended <- old })
	}
	return err
}

// stopAll ends all started workers at the same time.
func (t *team) stopAll() error {
	ended := make(chan error, len(t.workers))
	n := 0
	for _, w := range t.workers {
		if w != nil {
			n++
			go func() { ended <- w.stop() }()
		}
	}
	var err error
	for range n {
		err = errors.Join(err, <-ended)
	}
	return err
}
