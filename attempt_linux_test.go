package reuseport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
)

// TestRedialPastStaleClose: two closes of one 4-tuple are pending. The first no longer holds
// it, since its peer has ended it. A redial frees the second.
func TestRedialPastStaleClose(t *testing.T) {
	for name, end := range map[string]func(*reuseport.Conn) error{
		"reset": (*reuseport.Conn).Abort,
		"close": func(c *reuseport.Conn) error {
			_, err := io.ReadAll(c)
			return errors.Join(err, c.TCPConn.SetLinger(-1), c.TCPConn.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newClosePair(t, 0)
			for range 5 {
				closeUnread(t, p.dialed, p.accepted)
				time.Sleep(150 * time.Millisecond) // the first close is inspected seldom by now
				if err := end(p.accepted); err != nil {
					t.Fatal(err)
				}
				if p.connect(t); !p.dialed.Reused() {
					t.Fatal("not reused: ", p.dialed.Cause())
				}
				closeUnread(t, p.dialed, p.accepted)
				p.redial(t)
				p.accepted.Abort()
				awaitCloses(t, &p.dialer)
				p.connect(t)
			}
		})
	}
}

// TestRedialFreesOneTuple: a redial from a wildcard listener frees the close on the address that
// it leaves from, and not one on another address of the host.
func TestRedialFreesOneTuple(t *testing.T) {
	var us, peer reuseport.Transport
	l := listen(t, &us, "/ip4/0.0.0.0/tcp/0")
	remote := listen(t, &peer, "/ip4/127.0.0.9/tcp/0")
	there, err := peer.DialContext(required(t), tcpMultiaddr(netip.MustParseAddr("127.0.0.2"), uint16(portOf(l.Addr()))))
	if err != nil {
		t.Fatal(err)
	}
	in := accept(t, l) // from the address that we dial
	out := dial(t, &us, remote.Multiaddr())
	far := accept(t, remote)
	closeUnread(t, in, there.(*reuseport.Conn))
	closeUnread(t, out, far)
	c, err := us.DialContext(required(t), remote.Multiaddr())
	if err != nil {
		t.Fatal("redial: ", err)
	}
	defer c.Close()
	onSocket(t, there.(*reuseport.Conn), func(fd int) error {
		const closeWait = 8 // TCP_CLOSE_WAIT of <netinet/tcp.h>; a reset would have ended it
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil && info.State != closeWait {
			t.Errorf("the close on the other address was ended: its peer is in state %d", info.State)
		}
		return err
	})
}

// TestNoAddressIsNoTakenTuple: a host without an address of the peer's family says so. Linux
// has one errno for that and for a taken 4-tuple, and RequireReuse and Punch tell them apart.
func TestNoAddressIsNoTakenTuple(t *testing.T) {
	t.Parallel()
	wantLines(t, startAlone(t, "noAddress"),
		"dial: no address true, tuple in use false",
		"punch: no address true, tuple in use false")
}

// wantLines checks the lines that a child prints.
func wantLines(t *testing.T, c *child, lines ...string) {
	t.Helper()
	for _, want := range lines {
		if got := c.receive(t); got != want {
			t.Errorf("the child says %q, want %q", got, want)
		}
	}
}

// startAlone starts a child in a network namespace of its own, which has no address.
func startAlone(t *testing.T, role string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.SysProcAttr = ownNetwork()
	return startCommand(t, role, cmd)
}

// childNoAddress listens on the wildcard of a host without addresses. It prints the errors of
// a dial with RequireReuse and of a punch.
func childNoAddress([]string) error {
	tr := reuseport.Transport{PortUse: reuseport.RequireReuse}
	l, err := tr.ListenPort(0)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	to := tcpMultiaddr(netip.IPv6Loopback(), 1)
	_, dialErr := tr.DialContext(ctx, to)
	_, punchErr := tr.Punch(ctx, to)
	say := func(what string, err error) {
		fmt.Printf("%s: no address %t, tuple in use %t\n", what, errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, reuseport.ErrTupleInUse))
	}
	say("dial", dialErr)
	say("punch", punchErr)
	return l.Close()
}

// TestSpecificListeners: towards an address beyond loopback a dial leaves from the listener on
// the kernel's source. Where that one's 4-tuple is taken it leaves from the wildcard listener,
// and then from an ephemeral port. A listener on another address of no known interface serves where
// a listening port is required, and only there.
func TestSpecificListeners(t *testing.T) {
	wantLines(t, startAlone(t, "specific"),
		"on the source and on all: reused from 10.0.0.1:4001",
		"on the source and on all: reused from 10.0.0.1:4002",
		"on the source and on all: not reused: 4-tuple in use",
		"no route: dial tcp4 10.0.0.2:4003->192.0.2.1:80: connect: network is unreachable",
		"no route from either port: dial tcp4 10.0.0.2:4006->192.0.2.1:80: connect: network is unreachable",
		"on another address: reused from 10.0.0.2:4003",
		"on another address: not reused: no listener",
		"on other addresses: not reused: no listener",
		"punch on another address: from 10.0.0.2:4003",
		"punch, no route: punch tcp4 192.0.2.1:80: dial tcp4 192.0.2.1:80: connect: network is unreachable",
		"punch on the source: from 10.0.0.1:4001",
		"to itself: not reused: self-connection",
		"to itself: no listening port",
		"beside a stranger: reused from 10.0.0.1:4005",
		"beside a stranger, no route: dial tcp4 10.0.0.1:4005->192.0.2.1:80: connect: network is unreachable",
		"without a spare descriptor: reused from 10.0.0.1:4004")
}

// childSpecific gives the loopback interface of its network namespace 10.0.0.1/8, all of which
// is local then, dials from there and says from which port.
func childSpecific([]string) error {
	if err := setLoopback([]byte{10, 0, 0, 1}); err != nil {
		return err
	}
	peer, err := net.Listen("tcp4", "0.0.0.0:80")
	if err != nil {
		return err
	}
	defer peer.Close() // nobody accepts
	var both, other, others, wildcard reuseport.Transport
	for _, on := range []struct {
		address string
		tr      *reuseport.Transport
	}{
		{"10.0.0.1/tcp/4001", &both}, {"0.0.0.0/tcp/4002", &both}, {"10.0.0.2/tcp/4003", &other},
		{"10.0.0.2/tcp/4006", &others}, {"10.0.0.4/tcp/4007", &others}, {"0.0.0.0/tcp/4008", &wildcard},
	} {
		if _, err := on.tr.Listen(ma.StringCast("/ip4/" + on.address)); err != nil {
			return err
		}
	}
	for range 3 { // the connections stay open
		if c := sayDial("on the source and on all", &both, "10.0.0.9", reuseport.PreferReuse); c != nil {
			defer c.Close()
		}
	}
	sayDial("no route", &other, "192.0.2.1", reuseport.RequireReuse)
	sayDial("no route from either port", &others, "192.0.2.1", reuseport.RequireReuse)
	sayDial("on another address", &other, "10.0.0.9", reuseport.RequireReuse)
	sayDial("on another address", &other, "10.0.0.9", reuseport.PreferReuse)
	sayDial("on other addresses", &others, "10.0.0.9", reuseport.PreferReuse)
	sayPunch("punch on another address", &other, "10.0.0.7")
	sayPunch("punch, no route", &other, "192.0.2.1")
	sayPunch("punch on the source", &both, "10.0.0.8")
	own := netip.MustParseAddrPort("10.0.0.1:4008")
	sayDialTo("to itself", &wildcard, own, reuseport.PreferReuse)
	sayDialTo("to itself", &wildcard, own, reuseport.RequireReuse)
	return errors.Join(besideStranger(), withoutDescriptors())
}

// besideStranger dials while a stranger holds the port on another address of the host.
func besideStranger() error {
	stranger, err := net.Listen("tcp4", "10.0.0.3:4005")
	if err != nil {
		return err
	}
	defer stranger.Close()
	var tr reuseport.Transport
	if _, err := tr.Listen(ma.StringCast("/ip4/10.0.0.1/tcp/4005")); err != nil {
		return err
	}
	sayDial("beside a stranger", &tr, "10.0.0.9", reuseport.PreferReuse)
	sayDial("beside a stranger, no route", &tr, "192.0.2.1", reuseport.PreferReuse)
	return nil
}

// withoutDescriptors dials while the only descriptors to be had are those of pending closes: for
// the question for the source and for the connection.
func withoutDescriptors() error {
	var tr reuseport.Transport
	if _, err := tr.Listen(ma.StringCast("/ip4/10.0.0.1/tcp/4004")); err != nil {
		return err
	}
	for host := byte(10); host < 14; host++ {
		c, err := tr.Dial(tcpMultiaddr(netip.AddrFrom4([4]byte{10, 0, 0, host}), 80))
		if err != nil {
			return err
		}
		if err := c.Close(); err != nil { // pending: nobody accepts, so the peer does not end
			return err
		}
	}
	if _, err := fillGaps(); err != nil {
		return err
	}
	undo, err := limitDescriptors(0)
	if err != nil {
		return err
	}
	sayDial("without a spare descriptor", &tr, "10.0.0.9", reuseport.RequireReuse)
	return undo()
}

// sayDial dials port 80 of ip and says what came of it.
func sayDial(what string, tr *reuseport.Transport, ip string, use reuseport.PortUse) net.Conn {
	return sayDialTo(what, tr, netip.AddrPortFrom(netip.MustParseAddr(ip), 80), use)
}

func sayDialTo(what string, tr *reuseport.Transport, raddr netip.AddrPort, use reuseport.PortUse) net.Conn {
	ctx := reuseport.WithPortUse(context.Background(), use)
	c, err := tr.DialContext(ctx, tcpMultiaddr(raddr.Addr(), raddr.Port()))
	switch {
	case errors.Is(err, reuseport.ErrNoReuse):
		fmt.Println(what + ": no listening port")
	case err != nil:
		fmt.Println(what+":", strings.ReplaceAll(err.Error(), "\n", "; "))
	case c.(*reuseport.Conn).Reused():
		fmt.Println(what+": reused from", c.LocalAddr())
	default:
		fmt.Println(what+": not reused:", c.(*reuseport.Conn).Cause())
	}
	return c
}

// sayPunch punches towards port 80 of ip, says what came of it and resets it.
func sayPunch(what string, tr *reuseport.Transport, ip string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := tr.Punch(ctx, tcpMultiaddr(netip.MustParseAddr(ip), 80))
	if err != nil {
		fmt.Println(what+":", err)
		return
	}
	fmt.Println(what+": from", c.LocalAddr())
	c.Abort()
}

// setLoopback sets the address of the loopback interface and switches it on.
func setLoopback(ip []byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := errors.Join(lo.SetInet4Addr(ip), unix.IoctlIfreq(fd, unix.SIOCSIFADDR, lo)); err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}
