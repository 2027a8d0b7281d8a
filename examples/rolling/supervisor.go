//go:build unix

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

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
	t := newTeam(sockets)
	if err := t.replaceAll(); err != nil {
		return errors.Join(err, t.stopAll())
	}
	for {
		select {
		case <-end:
			return t.stopAll()
		case w := <-t.ended:
			complain(t.refill(w))
		case <-replace:
			if err := t.replaceAll(); err != nil {
				complain(err) // the workers that are left go on
				continue
			}
			fmt.Println("replaced")
		}
	}
}

func complain(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "rolling:", err)
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
