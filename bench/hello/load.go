//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const request = "GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: load\r\nAccept: */*\r\n\r\n"

// loader keeps connections busy from one thread, with plain system calls, to use as
// little as possible of the CPUs that it shares with the server.
type loader struct {
	port, epfd int
	next       byte // last byte of the next source address
	done       int
	buf        [512]byte
}

// load makes requests for d and prints how many were answered in full.
func load(port, conns int, d time.Duration) error {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	l := &loader{port: port, epfd: epfd}
	for range conns {
		if err := l.ask(); err != nil {
			return err
		}
	}
	if err := l.run(time.Now().Add(d)); err != nil {
		return err
	}
	fmt.Println(l.done)
	return nil
}

func (l *loader) run(end time.Time) error {
	events := make([]unix.EpollEvent, 64)
	for time.Now().Before(end) {
		n, err := unix.EpollWait(l.epfd, events, 1000)
		if err != nil && err != unix.EINTR {
			return err
		}
		for _, ev := range events[:max(n, 0)] {
			if err := l.answered(int(ev.Fd)); err != nil {
				return err
			}
		}
	}
	return nil
}

// ask connects from one of 127.0.1.1-127.0.1.200 and sends a request.
func (l *loader) ask() error {
	l.next = l.next%200 + 1
	fd, err := connect([4]byte{127, 0, 1, l.next}, l.port)
	if err != nil {
		return err
	}
	if _, err := unix.Write(fd, []byte(request)); err != nil {
		return err
	}
	return unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

// answered reads an answer to its end and makes the next request.
func (l *loader) answered(fd int) error {
	n, err := unix.Read(fd, l.buf[:])
	if err != nil {
		return fmt.Errorf("reading an answer: %w", err)
	}
	if !bytes.HasSuffix(l.buf[:n], []byte("\r\n\r\nHello")) {
		return fmt.Errorf("answer %q", l.buf[:n])
	}
	if n, err := unix.Read(fd, l.buf[:]); n > 0 || (err != nil && err != unix.ECONNRESET) {
		return fmt.Errorf("after the answer: %d bytes, %w", n, err)
	}
	l.done++
	return errors.Join(unix.Close(fd), l.ask())
}

// connect opens a connection from ip to 127.0.0.1. The kernel chooses the port at
// connect (IP_BIND_ADDRESS_NO_PORT), so each source address can use all ports.
func connect(ip [4]byte, port int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: ip}); err != nil {
		return -1, err
	}
	return fd, unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
}
