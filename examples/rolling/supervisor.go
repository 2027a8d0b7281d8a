//go:build unix

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/reusetransport/reuseport"
)

// supervise runs n workers until SIGTERM, and replaces them on SIGHUP.
func supervise(port uint16, n int) error {
	// One channel each, so that a SIGHUP that waits displaces no SIGTERM.
	end, replace := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, os.Interrupt)
	signal.Notify(replace, syscall.SIGHUP)
	sockets, err := listen(port, n)
	if err != nil {
		return err
	}
	workers := make([]*exec.Cmd, n)
	if err := replaceAll(workers, sockets); err != nil {
		return errors.Join(err, stopAll(workers))
	}
	for {
		select {
		case <-end:
			return stopAll(workers)
		case <-replace:
		}
		if err := replaceAll(workers, sockets); err != nil {
			fmt.Fprintln(os.Stderr, "rolling:", err) // those that are left go on
			continue
		}
		fmt.Println("replaced")
	}
}

// listen makes n sockets on one port, which it prints. The descriptors stay open,
// and with them the queues.
func listen(port uint16, n int) ([]*os.File, error) {
	var sockets []*os.File
	for range n {
		// A Transport of its own each: the listeners of one Transport on one
		// address are handles of one socket.
		t := &reuseport.Transport{Shared: true}
		l, err := t.ListenPort(port)
		if err != nil {
			return nil, err
		}
		port = uint16(l.Addr().(*net.TCPAddr).Port)
		f, err := l.(interface{ File() (*os.File, error) }).File()
		if err = errors.Join(err, l.Close()); err != nil {
			return nil, err
		}
		sockets = append(sockets, f)
	}
	fmt.Println("port", port)
	return sockets, nil
}

// replaceAll replaces the workers one after the other; a nil one is just started.
// Where the next one does not start the old one stays. An old one that had died, or
// has to be killed, is in the error, and replaced all the same.
func replaceAll(workers []*exec.Cmd, sockets []*os.File) error {
	var errs error
	for i, old := range workers {
		next, err := start(i, sockets[i])
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		workers[i] = next
		if old != nil {
			errs = errors.Join(errs, stop(old))
		}
	}
	return errs
}

// start starts worker i on a socket and waits until it accepts.
func start(i int, socket *os.File) (*exec.Cmd, error) {
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
	if err := await(ready); err != nil {
		_ = cmd.Process.Kill() // it may have ended, which Wait tells
		return nil, fmt.Errorf("worker %d is not ready: %w", i, errors.Join(err, cmd.Wait()))
	}
	return cmd, nil
}

// await waits for the byte that says that the worker accepts. One that died closes
// its end of the pipe without it: io.EOF.
func await(ready *os.File) error {
	err := ready.SetReadDeadline(time.Now().Add(patience))
	if err == nil {
		_, err = ready.Read(make([]byte, 1))
	}
	return errors.Join(err, ready.Close())
}

// stop ends a worker, which first serves what it has accepted.
func stop(w *exec.Cmd) error {
	if err := w.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	kill := time.AfterFunc(2*patience, func() { _ = w.Process.Kill() }) // it may have ended
	defer kill.Stop()
	return w.Wait()
}

// stopAll ends those that were started, all at the same time.
func stopAll(workers []*exec.Cmd) error {
	ended := make(chan error, len(workers))
	n := 0
	for _, w := range workers {
		if w != nil {
			n++
			go func() { ended <- stop(w) }()
		}
	}
	var err error
	for range n {
		err = errors.Join(err, <-ended)
	}
	return err
}
