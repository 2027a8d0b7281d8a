//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"syscall"
)

// workerEnv makes this program a worker: a process that serves RPCs over its standard
// input and output until the input ends, at the latest when the parent dies.
const workerEnv = "REUSEPORT_BENCH_WORKER"

// isWorker reports whether this process was started as a worker.
func isWorker() bool { return os.Getenv(workerEnv) != "" }

// serveWorker runs a worker.
func serveWorker() error {
	s := rpc.NewServer()
	sink, err := newSink()
	if err != nil {
		return err
	}
	for _, service := range []any{sink, new(Pump), new(Live), new(Namespace)} {
		if err := s.Register(service); err != nil {
			return err
		}
	}
	s.ServeConn(stdio{os.Stdin, os.Stdout})
	return nil
}

// stdio joins the ends of two pipes.
type stdio struct {
	io.ReadCloser
	io.WriteCloser
}

// Close closes both.
func (s stdio) Close() error { return errors.Join(s.ReadCloser.Close(), s.WriteCloser.Close()) }

// worker is a started worker process.
type worker struct {
	*rpc.Client
	cmd *exec.Cmd
}

// workerOptions say what namespaces a worker gets.
type workerOptions struct {
	newNet  bool
	newUser bool // with newNet, if not root
}

// attributes returns the options for the kernel.
func (o workerOptions) attributes() *syscall.SysProcAttr {
	a := new(syscall.SysProcAttr)
	if o.newNet {
		a.Cloneflags |= syscall.CLONE_NEWNET
	}
	if o.newUser {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return a
}

// spawn starts this program again, as a worker.
func spawn(o workerOptions) (*worker, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), workerEnv+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = o.attributes()
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start worker: %w", err)
	}
	return &worker{rpc.NewClient(stdio{out, in}), cmd}, nil
}

// pid returns the id of the worker's process.
func (w *worker) pid() int { return w.cmd.Process.Pid }

// close ends the worker and waits for it. A worker without a process of its own is
// left to its owner.
func (w *worker) close() error {
	if w.cmd == nil {
		return nil
	}
	return errors.Join(w.Client.Close(), w.cmd.Wait())
}
