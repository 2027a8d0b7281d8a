package foreign_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/reusetransport/reuseport"
)

// envChild is set for a process that a host starts from this binary. Its value is a
// child in JSON.
const envChild = "REUSEPORT_FOREIGN_CHILD"

// childLimit is how long a child may live.
const childLimit = time.Minute

// child is a server in a process of its own.
type child struct {
	Stack    stack
	At       string
	Size     int
	Shutdown bool // call Shutdown before the exit
	Handed   int  // serve so many connections of the listener on descriptor 3, over package net
}

// childMain is the main of a child.
func childMain() int {
	time.AfterFunc(childLimit, func() { os.Exit(2) })
	var c child
	err := json.Unmarshal([]byte(os.Getenv(envChild)), &c)
	if err == nil && c.Handed > 0 {
		err = c.serveHanded()
	} else if err == nil {
		err = c.serveOne()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// serveOne prints its address, answers one connection without reading what it has
// sent, closes it and returns at once.
func (c child) serveOne() error {
	var tr reuseport.Transport
	l, err := listenOver(&tr, c.Stack, c.At)
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	time.Sleep(200 * time.Millisecond) // until the peer's data is there
	if err := answer(conn, c.Size); err != nil {
		return err
	}
	if !c.Shutdown {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), childLimit)
	defer cancel()
	return tr.Shutdown(ctx)
}

// serveHanded knows nothing of this library.
func (c child) serveHanded() error {
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	answered := make(chan error)
	for range c.Handed {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() { answered <- answer(conn, c.Size) }()
	}
	var errs []error
	for range c.Handed {
		errs = append(errs, <-answered)
	}
	return errors.Join(errs...)
}

// spawn starts a child and returns the address that it prints.
func (h *host) spawn(c child, files ...*os.File) (string, error) {
	spec, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(h.ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), envChild+"="+string(spec))
	cmd.Stderr, cmd.ExtraFiles = os.Stderr, files
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	go func() {
		if err := cmd.Wait(); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err) // shown if the test fails
		}
	}()
	return strings.TrimSpace(line), err
}

// exits starts a server that exits right after its first Close.
func (h *host) exits(_ context.Context, c child) (string, error) { return h.spawn(c) }

// queue listens and accepts nothing.
func (h *host) queue(_ context.Context, v service) (string, error) {
	l, err := h.listen(v.Stack, v.At)
	if err != nil {
		return "", err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.idle[l.Addr().String()] = l
	return l.Addr().String(), nil
}

// handing asks a host to hand a listener to a child.
type handing struct {
	Addr   string
	Queued int // connections that must be in the queue before
	Child  child
}

// hand waits for the queue, hands the listener to a child and closes its own.
func (h *host) hand(_ context.Context, o handing) (string, error) {
	h.mu.Lock()
	l := h.idle[o.Addr]
	h.mu.Unlock()
	if err := awaitListening(l.Addr().(*net.TCPAddr).Port, o.Queued); err != nil {
		return "", err
	}
	file, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		return "", err
	}
	addr, err := h.spawn(o.Child, file)
	return addr, errors.Join(err, file.Close(), l.Close())
}
