//go:build linux

package main

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Sink accepts connections on any number of ports, reads them to their end, and
// counts how they ended. One thread waits for all of them, so that it costs every
// peer the same and holds 19,000 connections in little memory.
type Sink struct {
	epoll int

	mu     sync.Mutex
	ports  map[int]*SinkCounts // by listening descriptor
	owners map[int]*SinkCounts // by connection
}

// SinkCounts says how the connections of a port ended.
type SinkCounts struct {
	Port     uint16
	Accepted int
	EOF      int // ended in order
	Reset    int // ended by a reset
}

// Nothing is the argument or the answer of a call that has none.
type Nothing struct{}

// newSink makes a sink without ports.
func newSink() (*Sink, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return &Sink{epoll: fd, ports: map[int]*SinkCounts{}, owners: map[int]*SinkCounts{}}, os.NewSyscallError("epoll_create1", err)
}

// Open listens on all IPv4 addresses, on a port that the kernel chooses.
func (s *Sink) Open(_ Nothing, port *uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ports) == 0 {
		go s.serve()
	}
	fd, err := rawListen()
	if err != nil {
		return err
	}
	*port = localAddrPort(rawListener(fd)).Port()
	s.ports[fd] = &SinkCounts{Port: *port}
	return s.watch(fd)
}

// rawListen makes a listening socket on a free port of all addresses.
func rawListen() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	unspecified := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	if err := unix.Bind(fd, sockaddr(unspecified)); err != nil {
		return 0, closeAfter(rawConn(fd), "bind", err)
	}
	if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
		return 0, closeAfter(rawConn(fd), "listen", err)
	}
	return fd, nil
}

// Counts reports how the connections of a port ended.
func (s *Sink) Counts(port uint16, counts *SinkCounts) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.ports {
		if c.Port == port {
			*counts = *c
			return nil
		}
	}
	return net.ErrClosed
}

// watch asks for events on a descriptor.
func (s *Sink) watch(fd int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: int32(fd)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &ev))
}

// serve handles events until the process ends, on the machine's last processor.
func (s *Sink) serve() {
	runtime.LockOSThread()
	_ = unix.SchedSetaffinity(0, lastProcessor()) // if that fails, the scheduler chooses one
	events := make([]unix.EpollEvent, 256)
	for {
		n, err := unix.EpollWait(s.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			panic(err) // our own descriptor, valid arguments
		}
		s.handle(events[:max(n, 0)])
	}
}

// handle handles a batch of events.
func (s *Sink) handle(events []unix.EpollEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ev := range events {
		if port, ok := s.ports[int(ev.Fd)]; ok {
			s.accept(int(ev.Fd), port)
			continue
		}
		s.end(int(ev.Fd))
	}
}

// accept accepts all connections that wait on a port.
func (s *Sink) accept(listener int, port *SinkCounts) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err != nil {
			return // EAGAIN; any other error comes back with the next event
		}
		port.Accepted++
		s.owners[fd] = port
		if err := s.watch(fd); err != nil {
			panic(err) // a new descriptor, valid arguments
		}
	}
}

// end reads how a connection ended and closes it. It discards data.
func (s *Sink) end(fd int) {
	var buf [4096]byte
	n, err := unix.Read(fd, buf[:])
	switch {
	case n > 0 || errors.Is(err, unix.EAGAIN):
		return
	case err != nil:
		s.owners[fd].Reset++
	default:
		s.owners[fd].EOF++
	}
	delete(s.owners, fd)
	_ = unix.Close(fd) // the connection is over; there is nothing to report
}
