package reuseport_test

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
)

// These tests pin what docs/guide.md says of the system's settings, each in a network namespace of
// its own.

// setSysctl sets a setting of this network namespace, such as "ipv4/tcp_timestamps".
func setSysctl(t *testing.T, name, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
		skip(t, "the setting cannot be changed: %v", err)
	}
}

// TestReservedPort: a port in the ephemeral range may belong to any dial by the time that we want to
// listen on it. A reserved one does not, and dials leave from it once it has a listener.
func TestReservedPort(t *testing.T) {
	if !alone(t) {
		return
	}
	setSysctl(t, "ipv4/ip_local_port_range", "40000 40001") // so that two dials take all there are
	remote, err := net.Listen("tcp4", "10.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer remote.Close()
	dialBoth := func() (conns []net.Conn) {
		for range 2 {
			if c, err := net.Dial("tcp4", "10.0.0.1:80"); err == nil {
				conns = append(conns, c)
			}
		}
		return conns
	}
	var tr reuseport.Transport
	taken := dialBoth()
	_, err = tr.Listen(parse(t, "/ip4/10.0.0.1/tcp/40000"))
	wantErr(t, err, syscall.EADDRINUSE)
	for _, c := range taken {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	setSysctl(t, "ipv4/ip_local_reserved_ports", "40000")
	if left := dialBoth(); len(left) != 1 {
		t.Errorf("%d dials left from ephemeral ports, want 1: one of two is reserved", len(left))
	}
	listen(t, &tr, "/ip4/10.0.0.1/tcp/40000")
	if c := dial(t, &tr, parse(t, "/ip4/10.0.0.1/tcp/80")); !c.Reused() {
		t.Error("not reused: ", c.Cause())
	}
}

// TestMigrateReq: of two Transports that share a port one shuts down while connections wait in its
// queue. They are lost, unless net.ipv4.tcp_migrate_req gives them to the other one.
func TestMigrateReq(t *testing.T) {
	if !alone(t) {
		return
	}
	for migrate, wantAll := range map[string]bool{"0": false, "1": true} {
		setSysctl(t, "ipv4/tcp_migrate_req", migrate)
		one, two := reuseport.Transport{Shared: true}, reuseport.Transport{Shared: true}
		stays := listen(t, &two, "/ip4/10.0.0.1/tcp/0")
		listen(t, &one, stays.Multiaddr().String())
		const n = 100
		for range n {
			dialPlain(t, stays.Addr().String())
		}
		if err := one.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		var got atomic.Int32
		done := make(chan struct{})
		go func() { countAccepts(stays, &got); close(done) }()
		settled(t)
		stays.Close()
		<-done
		if all := got.Load() == n; all != wantAll || got.Load() == 0 {
			t.Errorf("tcp_migrate_req %s: %d of %d connections", migrate, got.Load(), n)
		}
	}
}

// TestUnprivilegedPortStart: whoever may listen on a low port may dial from it: the kernel asks for
// CAP_NET_BIND_SERVICE below net.ipv4.ip_unprivileged_port_start, at each bind.
func TestUnprivilegedPortStart(t *testing.T) {
	if !alone(t) {
		return
	}
	setSysctl(t, "ipv4/ip_unprivileged_port_start", "80")
	if err := syscall.Setuid(nobody); err != nil {
		skip(t, "needs root, to give it up: %v", err)
	}
	var tr reuseport.Transport
	_, err := tr.Listen(parse(t, "/ip4/10.0.0.1/tcp/79"))
	wantErr(t, err, os.ErrPermission)
	listen(t, &tr, "/ip4/10.0.0.1/tcp/80")
	if c := dial(t, &tr, peer(t, "10.0.0.1:0")); !c.Reused() {
		t.Error("not reused: ", c.Cause())
	}
}

// TestAcceptQueueLength: the accept queue is as long as net.core.somaxconn said at the first Listen
// of the process.
func TestAcceptQueueLength(t *testing.T) {
	if !alone(t) {
		return
	}
	setSysctl(t, "core/somaxconn", "77")
	var tr reuseport.Transport
	for range 2 {
		l := listen(t, &tr, "/ip4/10.0.0.1/tcp/0")
		onSocket(t, l, func(fd int) error {
			info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
			if err == nil && info.Sacked != 77 { // of a listening socket: the length of its queue
				err = fmt.Errorf("the queue holds %d connections, want 77", info.Sacked)
			}
			return err
		})
		setSysctl(t, "core/somaxconn", "88")
	}
}
