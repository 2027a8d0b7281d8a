package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// Role is what a host does. It runs as the host's process, defines operations with
// [Handle] and then calls [Process.Serve]. The host passes if Role returns nil. A
// test fails if one of its hosts does not pass.
type Role func(p *Process) error

// Roles are roles by name, see [Host.Role].
type Roles map[string]Role

// Process is a host as its own role sees it.
type Process struct {
	name     string
	ctx      context.Context
	stop     context.CancelFunc
	in       io.Reader
	handlers map[string]handler

	mu  sync.Mutex // guards out
	out io.Writer
}

type handler func(ctx context.Context, in json.RawMessage) (any, error)

// request is one line to a process; reply is one line from it.
type (
	request struct {
		ID  int             `json:"id,omitempty"`
		Op  string          `json:"op,omitempty"`
		In  json.RawMessage `json:"in,omitempty"`
		End bool            `json:"end,omitempty"` // the test is over
	}
	reply struct {
		ID    int             `json:"id,omitempty"`
		Out   json.RawMessage `json:"out,omitempty"`
		Err   *RemoteError    `json:"err,omitempty"`
		Ready bool            `json:"ready,omitempty"` // Serve begins
		Pass  bool            `json:"pass,omitempty"`  // the role returned nil
	}
)

// errParentGone ends a process whose test died without telling it.
var errParentGone = errors.New("lab: the parent is gone")

func newProcess(name string, in io.Reader, out io.Writer) *Process {
	ctx, stop := context.WithCancel(context.Background())
	return &Process{name: name, ctx: ctx, stop: stop, in: in, out: out, handlers: map[string]handler{}}
}

// Name returns the host's name in the topology.
func (p *Process) Name() string { return p.name }

// Context returns a context that ends when the test does.
func (p *Process) Context() context.Context { return p.ctx }

// Handle defines op, which the test runs with [Network.Call]. The argument and the
// result of fn are sent as JSON, its error as a [RemoteError]. fn runs on a goroutine
// of its own and may block; its context ends with the test. All operations must be
// defined before Serve.
func Handle[In, Out any](p *Process, op string, fn func(ctx context.Context, in In) (Out, error)) {
	p.handlers[op] = func(ctx context.Context, raw json.RawMessage) (any, error) {
		var in In
		if err := json.Unmarshal(raw, &in); err != nil {
			return nil, err
		}
		return fn(ctx, in)
	}
}

// Serve runs the operations that the test calls until the test is over, waits for
// those that are still running, and returns nil.
func (p *Process) Serve() error {
	var running sync.WaitGroup
	defer running.Wait()
	defer p.stop()
	if err := p.send(reply{Ready: true}); err != nil {
		return err
	}
	lines := bufio.NewReader(p.in)
	for {
		var req request
		if err := readLine(lines, &req); err != nil {
			return errors.Join(errParentGone, err)
		}
		if req.End {
			return nil
		}
		running.Go(func() { p.answer(req) })
	}
}

func (p *Process) answer(req request) {
	out, err := p.handle(req)
	if err != nil {
		err = p.send(reply{ID: req.ID, Err: remoteError(err)})
	} else {
		err = p.send(reply{ID: req.ID, Out: out})
	}
	if err != nil { // the parent's call stays unanswered; this says why
		fmt.Fprintf(os.Stderr, "%s: answering %s: %v\n", p.name, req.Op, err)
	}
}

func (p *Process) handle(req request) (json.RawMessage, error) {
	fn, ok := p.handlers[req.Op]
	if !ok {
		return nil, fmt.Errorf("the role of %s does not handle %q", p.name, req.Op)
	}
	out, err := fn(p.ctx, req.In)
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// finish reports how the role ended. It is the last thing the process sends.
func (p *Process) finish(err error) error {
	if err != nil {
		return errors.Join(err, p.send(reply{Err: remoteError(err)}))
	}
	return p.send(reply{Pass: true})
}

func (p *Process) send(r reply) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return writeLine(p.out, r)
}

func writeLine(w io.Writer, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

func readLine(r *bufio.Reader, v any) error {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(line, v)
}
