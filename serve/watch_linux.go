package serve

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// watchSet is an epoll set with one-shot interest in the descriptors of the parked
// connections. They are in the runtime's own set as well; a descriptor may be in
// several. The set is a file that the runtime's poller watches (epoll sets nest), so
// that waiting for it costs a goroutine but no thread.
type watchSet struct {
	file *os.File // owns epfd; nil until first needed
	epfd int
	byFD []*conn // the parked connections by descriptor
}

// interest is the events that end a stay. EPOLLERR and EPOLLHUP are always reported.
const interest = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT

// maxEvents is how many connections one system call reports at most.
const maxEvents = 128

// watch makes the set report one event of c, whose descriptor is fd. If it is not ok,
// a goroutine has to wait for c instead. A stale connection is one that still was in
// the set under fd: other code closed it while it was parked, and the caller owns it
// now. The caller holds p.mu.
func (s *watchSet) watch(p *parking, c *conn, fd uintptr) (stale *conn, ok bool) {
	c.fd = -1
	if s.file == nil && !s.open(p) {
		return nil, false
	}
	for int(fd) >= len(s.byFD) {
		s.byFD = append(s.byFD, nil)
	}
	if stale = s.byFD[fd]; stale != nil {
		p.remove(stale)
	}
	if !s.arm(c, int(fd)) {
		return stale, false
	}
	s.byFD[fd] = c
	c.fd = int32(fd)
	return stale, true
}

// arm asks for one event. A descriptor stays in the set until it is closed, so that
// parking it again costs only one call too.
func (s *watchSet) arm(c *conn, fd int) bool {
	op := unix.EPOLL_CTL_ADD
	if c.known {
		op = unix.EPOLL_CTL_MOD
	}
	ev := unix.EpollEvent{Events: interest, Fd: int32(fd), Pad: int32(c.stay)}
	if unix.EpollCtl(s.epfd, op, fd, &ev) != nil {
		return false
	}
	c.known = true
	return true
}

// leave forgets c. The caller holds p.mu.
func (s *watchSet) leave(c *conn) {
	if c.fd >= 0 {
		s.byFD[c.fd] = nil
	}
}

// sweepChunk is how many descriptors are checked under one lock: about 50 us.
const sweepChunk = 1024

// sweep takes out the connections that other code has closed.
func (s *watchSet) sweep(p *parking) []*conn {
	var out []*conn
	for start, more := 0, true; more; start += sweepChunk {
		out, more = s.sweepChunk(p, start, out)
	}
	return out
}

func (s *watchSet) sweepChunk(p *parking, start int, out []*conn) (_ []*conn, more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	end := min(start+sweepChunk, len(s.byFD))
	for fd := start; fd < end; fd++ {
		if c := s.byFD[fd]; c != nil && isClosed(c) {
			p.remove(c)
			out = append(out, c)
		}
	}
	return out, end < len(s.byFD)
}

// isClosed reports whether c is closed. Control does nothing but hold the descriptor
// for a moment.
func isClosed(c *conn) bool {
	raw := c.rawConn()
	return raw == nil || raw.Control(func(uintptr) {}) != nil
}

// open makes the set and starts its goroutine, which ends with it.
func (s *watchSet) open(p *parking) bool {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return false // perhaps out of descriptors; the next park tries again
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd) // the set is empty
		return false
	}
	f := os.NewFile(uintptr(fd), "epoll")
	raw, err := f.SyscallConn()
	if err != nil {
		_ = f.Close() // the set is empty
		return false
	}
	s.file, s.epfd = f, fd
	go p.watchAll(raw)
	return true
}

// close ends the goroutine. The parking is closed already, so nothing is watched
// afterwards. The caller holds p.mu.
func (s *watchSet) close() {
	if s.file != nil {
		_ = s.file.Close() // it holds no data
	}
}

// watchAll is the event loop. It passes readable connections to their handlers until
// the set is closed.
func (p *parking) watchAll(set syscall.RawConn) {
	events := make([]unix.EpollEvent, maxEvents)
	ready := make([]*conn, 0, maxEvents)
	for {
		n, err := epollWait(set, events)
		if err != nil {
			return // closed
		}
		ready = p.takeEvents(ready[:0], events[:n])
		for _, c := range ready {
			p.resume(c)
		}
	}
}

// epollWait waits for events without blocking a thread.
func epollWait(set syscall.RawConn, events []unix.EpollEvent) (n int, err error) {
	errClosed := set.Read(func(fd uintptr) bool {
		n, err = unix.EpollWait(int(fd), events, 0)
		return n > 0 || (err != nil && err != unix.EINTR)
	})
	if errClosed != nil {
		return 0, errClosed
	}
	return n, err
}

// takeEvents takes out the connections that the events are about. An event of an
// earlier stay is ignored.
func (p *parking) takeEvents(ready []*conn, events []unix.EpollEvent) []*conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ev := range events {
		c := p.set.byFD[ev.Fd]
		if c == nil || c.stay != uint32(ev.Pad) {
			continue
		}
		p.remove(c)
		ready = append(ready, c)
	}
	return ready
}
