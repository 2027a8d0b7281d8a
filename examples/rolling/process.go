//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// process is a worker that has been started.
type process struct {
	*os.Process
	started time.Time
	ended   chan struct{} // closed when it has ended
	err     error         // how; set before that
}

// start starts worker i on a socket and waits until it accepts.
func start(i int, socket *os.File) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ready, readyChild, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "-worker", strconv.Itoa(i))
	cmd.ExtraFiles = []*os.File{socket, readyChild} // descriptors 3 and 4
	cmd.Stderr = os.Stderr
	err = cmd.Start()
	if err = errors.Join(err, readyChild.Close()); err != nil {
		return nil, errors.Join(err, ready.Close())
	}
	p := &process{Process: cmd.Process, started: time.Now(), ended: make(chan struct{})}
	go p.wait(cmd)
	if err := await(ready); err != nil {
		_ = p.Kill() // it may have ended
		<-p.ended
		return nil, fmt.Errorf("worker %d is not ready: %w", i, errors.Join(err, p.err))
	}
	return p, nil
}

// wait notes how the process ends.
func (p *process) wait(cmd *exec.Cmd) {
	p.err = cmd.Wait()
	close(p.ended)
}

// await waits for the byte that a worker sends when it accepts. A worker that dies
// closes its end of the pipe first: io.EOF.
func await(ready *os.File) error {
	err := ready.SetReadDeadline(time.Now().Add(patience))
	if err == nil {
		_, err = ready.Read(make([]byte, 1))
	}
	return errors.Join(err, ready.Close())
}

// stop ends a worker, which first serves the connections it has accepted.
func (p *process) stop() error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	kill := time.AfterFunc(2*patience, func() { _ = p.Kill() }) // it may have ended
	defer kill.Stop()
	<-p.ended
	return p.err
}
