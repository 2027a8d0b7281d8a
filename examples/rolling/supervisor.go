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
	// Each has its own channel, so that a waiting SIGHUP cannot displace a SIGTERM.
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
			fmt.Fprintln(os.Stderr, "rolling:", err) // the workers that are left go on
			continue
		}
		fmt.Println("replaced")
	}
}

// listen makes n sockets on one port and prints the port. The descriptors stay open,
// and with them the accept queues.
func listen(port uint16, n int) ([]*os.File, error) {
	var sockets []*os.File
	for range n {
		// Each socket needs a Transport of its own: the listeners of one Transport on
		// one address are handles of one socket.
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

// replaceAll replaces the workers one after the other; a nil worker is only started.
// If the next one does not start, the old one stays. An old worker that had died or
// had to be killed is replaced too, and its error is returned.
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
		_ = cmd.Process.Kill() // it may have ended; Wait tells
		return nil, fmt.Errorf("worker %d is not ready: %w", i, errors.Join(err, cmd.Wait()))
	}
	return cmd, nil
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
func stop(w *exec.Cmd) error {
	if err := w.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	kill := time.AfterFunc(2*patience, func() { _ = w.Process.Kill() }) // it may have ended
	defer kill.Stop()
	return w.Wait()
}

// stopAll ends all started workers at the same time.
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
