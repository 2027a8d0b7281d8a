package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// session is the parent's side of a process: its standard input and output.
type session struct {
	name  string
	in    io.WriteCloser
	ready chan struct{} // closed when the process serves
	ended chan struct{} // closed when its output ends

	mu      sync.Mutex
	nextID  int
	waiting map[int]chan reply
	serving bool
	pass    bool
	fault   *RemoteError // why the role failed
}

func newSession(name string, in io.WriteCloser, out io.ReadCloser) *session {
	s := &session{
		name: name, in: in, waiting: map[int]chan reply{},
		ready: make(chan struct{}), ended: make(chan struct{}),
	}
	go s.read(out)
	return s
}

func (s *session) read(out io.ReadCloser) {
	defer close(s.ended)
	defer out.Close() // only read from: nothing to lose
	lines := bufio.NewReader(out)
	for {
		var r reply
		if err := readLine(lines, &r); err != nil {
			return // the process has ended; wait tells how
		}
		s.take(r)
	}
}

func (s *session) take(r reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.ID != 0:
		s.waiting[r.ID] <- r // does not block: each call has one reply
		delete(s.waiting, r.ID)
	case r.Ready && !s.serving:
		s.serving = true
		close(s.ready)
	case r.Pass:
		s.pass = true
	case r.Err != nil:
		s.fault = r.Err
	}
}

// waitReady waits until the process serves or its role has ended.
func (s *session) waitReady(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	case <-s.ended:
		return s.verdict()
	case <-ctx.Done():
		return fmt.Errorf("lab: %s did not start: %w", s.name, ctx.Err())
	}
}

func (s *session) call(ctx context.Context, op string, in, out any) error {
	raw, err := json.Marshal(in)
	if err != nil {
		return err
	}
	answer, err := s.send(op, raw)
	if err != nil {
		return err
	}
	select {
	case r := <-answer:
		return s.unpack(op, r, out)
	case <-s.ended:
		return fmt.Errorf("%s: %s: %w", s.name, op, errors.Join(ErrEnded, s.verdict()))
	case <-ctx.Done():
		return fmt.Errorf("%s: %s: no answer: %w", s.name, op, ctx.Err())
	}
}

func (s *session) send(op string, in json.RawMessage) (<-chan reply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nextID++
	answer := make(chan reply, 1)
	s.waiting[s.nextID] = answer
	if err := writeLine(s.in, request{ID: s.nextID, Op: op, In: in}); err != nil {
		delete(s.waiting, s.nextID)
		return nil, fmt.Errorf("%s: %s: %w", s.name, op, errors.Join(ErrEnded, err))
	}
	return answer, nil
}

func (s *session) unpack(op string, r reply, out any) error {
	if r.Err != nil {
		r.Err.Host, r.Err.Op = s.name, op
		return r.Err
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(r.Out, out)
}

// end tells the process that the test is over.
func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	// A process that has ended has sent its verdict, or failed to: wait reports
	// either.
	_ = writeLine(s.in, request{End: true})
	_ = s.in.Close()
}

// wait waits until the process has sent its verdict.
func (s *session) wait(ctx context.Context) error {
	select {
	case <-s.ended:
		return s.verdict()
	case <-ctx.Done():
		return fmt.Errorf("lab: %s does not end: %w", s.name, ctx.Err())
	}
}

// verdict returns nil only if the process itself said that it passed.
func (s *session) verdict() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.fault != nil:
		s.fault.Host, s.fault.Op = s.name, "role"
		return s.fault
	case !s.pass:
		return fmt.Errorf("lab: %s ended without a pass line", s.name)
	}
	return nil
}
