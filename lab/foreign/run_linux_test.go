package foreign_test

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// untilTheEnd is for servers: they end with their host.
const untilTheEnd = 10 * time.Minute

// limit is how long a program may take if its row says nothing else.
const limit = 30 * time.Second

// command is a program to run.
type command struct {
	Args  []string
	Env   []string
	Input int           // bytes of the payload on its standard input
	Holds time.Duration // how long its standard input stays open
	Limit time.Duration // then it is killed; zero = limit
	Port  int           // on which it listens; zero = it does not
}

// outcome is how a program ended.
type outcome struct {
	Bytes  int64  // on its standard output
	Sum    string // their hash
	Out    string // their beginning
	Err    string // the end of its standard error
	Exit   string // nothing, or what exec says
	Killed bool   // it took too long
}

// check demands an answer that is whole, times over.
func (o outcome) check(size, times int) error {
	switch want := int64(size * times); {
	case o.Killed:
		return fmt.Errorf("hangs, with %d of %d bytes", o.Bytes, want)
	case o.Bytes != want:
		return fmt.Errorf("%d of %d bytes %s", o.Bytes, want, o.Err)
	case o.Sum != payloadSum(size, times):
		return fmt.Errorf("%d bytes, but not the right ones", o.Bytes)
	case o.Exit != "":
		return fmt.Errorf("whole, but %s: %s", o.Exit, o.Err)
	}
	return nil
}

// running is a program that was started.
type running struct {
	cmd    *exec.Cmd
	cancel context.CancelFunc
	ctx    context.Context
	out    *output
	errs   *tail
}

// launch starts a program in a process group of its own, which is killed as a whole
// when ctx or the limit ends.
func launch(ctx context.Context, c command) (*running, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.Limit, limit))
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	r := &running{cmd: cmd, cancel: cancel, ctx: ctx, out: &output{sum: sha256.New()}, errs: &tail{}}
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Stdin = &input{left: payload(c.Input), holds: c.Holds}
	cmd.Stdout, cmd.Stderr = r.out, r.errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	return r, nil
}

// wait waits until the program has ended.
func (r *running) wait() outcome {
	defer r.cancel()
	err := r.cmd.Wait()
	o := outcome{
		Bytes: r.out.n, Sum: hex.EncodeToString(r.out.sum.Sum(nil)), Out: string(r.out.head),
		Err: strings.TrimSpace(string(r.errs.b)), Killed: r.ctx.Err() != nil,
	}
	if err != nil {
		o.Exit = err.Error()
	}
	return o
}

// input is a standard input that stays open for a while after its bytes.
type input struct {
	left  []byte
	holds time.Duration
}

func (in *input) Read(b []byte) (int, error) {
	if len(in.left) == 0 {
		time.Sleep(in.holds)
		return 0, io.EOF
	}
	n := copy(b, in.left)
	in.left = in.left[n:]
	return n, nil
}

// output counts what is written and keeps its beginning.
type output struct {
	n    int64
	sum  hash.Hash
	head []byte
}

func (o *output) Write(b []byte) (int, error) {
	const most = 8 << 10
	o.n += int64(len(b))
	o.head = append(o.head, b[:min(len(b), most-len(o.head))]...)
	return o.sum.Write(b)
}

// tail keeps the end of what is written.
type tail struct{ b []byte }

func (l *tail) Write(b []byte) (int, error) {
	const most = 2 << 10
	l.b = append(l.b, b...)
	l.b = l.b[max(0, len(l.b)-most):]
	return len(b), nil
}

// listening is one listening socket of the namespace.
type listening struct {
	port   int
	queued int // connections in its accept queue
}

// listeners reads /proc/self/net/tcp.
func listeners() ([]listening, error) {
	b, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		return nil, err
	}
	return parseListeners(string(b)), nil
}

// parseListeners takes the sockets in state LISTEN (0A) out of the kernel's table.
func parseListeners(table string) []listening {
	var all []listening
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 5 || f[3] != "0A" {
			continue
		}
		_, port, _ := strings.Cut(f[1], ":")
		_, queued, _ := strings.Cut(f[4], ":")
		p, errPort := strconv.ParseUint(port, 16, 16)
		q, errQueued := strconv.ParseUint(queued, 16, 32)
		if errPort == nil && errQueued == nil {
			all = append(all, listening{int(p), int(q)})
		}
	}
	return all
}

// awaitListening waits until somebody listens on a port with at least queued
// connections in the accept queue. To try it by a dial would take the connection that
// a program like nc waits for.
func awaitListening(port, queued int) error {
	for range 1000 {
		all, err := listeners()
		if err != nil {
			return err
		}
		for _, l := range all {
			if l.port == port && l.queued >= queued {
				return nil
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("nobody listens on port %d with %d waiting", port, queued)
}
