package reuseport

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport/internal/eyeballs"
	"github.com/reusetransport/reuseport/internal/netaddr"
	"github.com/reusetransport/reuseport/internal/netns"
)

// Dial is DialContext with context.Background().
func (t *Transport) Dial(raddr ma.Multiaddr) (manet.Conn, error) {
	return t.DialContext(context.Background(), raddr)
}

// DialContext connects to raddr, which is /ip4, /ip6, /ip6zone/…/ip6, /dns, /dns4 or
// /dns6 followed by /tcp; anything else is ErrWrongProto. The connection is a *Conn. It
// leaves from a port that t listens on, as the PortUse in force says.
//
// A name is resolved once, by Resolver, and its addresses race (RFC 8305): IPv4 and IPv6 in
// turn, the next one FallbackDelay after the one before, or at once when one has failed.
// The first to connect is the result. Unless the PortUse is NewPort the family that a
// listener of t serves comes first. At most 32 addresses are dialed.
//
// Only a fault of the local address (4-tuple taken, bind conflict, address gone) makes
// DialContext try another local address. Any other error is the answer, after one SYN to
// each address. A SYN that stays unanswered, or that is refused where all others were, may be
// hedged, see Transport.HedgeDelay. Multipath TCP is not used.
//
// The error is a net.Error: a *net.OpError, whose text has the addresses, or a *DialError
// of several, the first failure first. errors.Is finds the errno and context.Canceled or
// context.DeadlineExceeded. With RequireReuse it is ErrNoReuse or ErrTupleInUse if no
// listening port could be used. After Shutdown it is net.ErrClosed.
//
// Once connected, neither the end of ctx nor closing the listener whose port it uses
// affects the connection.
func (t *Transport) DialContext(ctx context.Context, raddr ma.Multiaddr) (manet.Conn, error) {
	began := time.Now()
	to, err := parseMultiaddr(raddr)
	if err != nil {
		return nil, t.failed(began, nameError("tcp", err))
	}
	c, err := t.dialTarget(ctx, to)
	if err != nil {
		return nil, t.failed(began, err)
	}
	t.counters.dialed(began, c)
	return c, nil
}

// DialNetContext is DialContext for the networks "tcp", "tcp4" and "tcp6" and an
// address as net.Dial takes it. It fits http.Transport.DialContext and dialers of
// WebSocket libraries.
func (t *Transport) DialNetContext(ctx context.Context, network, address string) (net.Conn, error) {
	began := time.Now()
	to, err := parseNetAddress(ctx, t.resolver(), network, address)
	if err != nil {
		return nil, t.failed(began, nameError(network, err))
	}
	c, err := t.dialTarget(ctx, to)
	if err != nil {
		return nil, t.failed(began, err)
	}
	t.counters.dialed(began, c)
	return c, nil
}

// nameError is the error of a dial that has no address yet.
func nameError(network string, err error) error {
	return opError("dial", network, netip.AddrPort{}, netip.AddrPort{}, err)
}

// failed counts a dial that began then and failed, and returns its error.
func (t *Transport) failed(began time.Time, err error) error {
	t.counters.failed.Add(1)
	t.counters.dialsFailed.Add(time.Since(began))
	return err
}

// dialTarget dials an address, or resolves a name and races its addresses.
func (t *Transport) dialTarget(ctx context.Context, to target) (*Conn, error) {
	use, err := t.portUse(ctx)
	if err != nil {
		return nil, nameError("tcp", err)
	}
	if t.Timeout != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.Timeout)
		defer cancel()
	}
	if to.isOne() {
		return t.dialAs(ctx, to.addr, use)
	}
	now := t.listening()
	if now.shut {
		return nil, nameError("tcp", errShutdown)
	}
	addrs, err := to.resolve(ctx, t.resolver())
	if err != nil {
		return nil, nameError("tcp", err)
	}
	return t.race(ctx, inTurn(addrs, now.addrs, use), use)
}

// maxAddrs bounds the addresses of a name that are dialed, so that who owns a name cannot aim
// its peers at hundreds of others.
const maxAddrs = 32

// inTurn returns the addresses of a name in the order in which they are dialed: both families in
// turn, first the one that a listener serves, or else that of the first address.
func inTurn(addrs []netip.AddrPort, listeners []listenAddr, use PortUse) []netip.AddrPort {
	first := addrs[0]
	isServed := func(a netip.AddrPort) bool {
		return slices.ContainsFunc(listeners, func(l listenAddr) bool { return l.serves(a.Addr()) })
	}
	if i := slices.IndexFunc(addrs, isServed); i > 0 && use != NewPort {
		first = addrs[i]
	}
	isFirst := func(a netip.AddrPort) bool { return a.Addr().Is4() == first.Addr().Is4() }
	turns := eyeballs.Interleave(addrs, isFirst)
	return turns[:min(len(turns), maxAddrs)]
}

// race dials the addresses of a name. It does so one after the other if the user wants that, or
// if its goroutines would dial from another network namespace than the caller's.
func (t *Transport) race(ctx context.Context, addrs []netip.AddrPort, use PortUse) (*Conn, error) {
	dial := func(ctx context.Context, raddr netip.AddrPort) (*Conn, error) { return t.dialAs(ctx, raddr, use) }
	var c *Conn
	var errs []error
	if t.FallbackDelay < 0 || len(addrs) == 1 || !netns.OthersShare() {
		c, errs = eyeballs.Serial(ctx, addrs, dial)
	} else {
		c, errs = eyeballs.Race(ctx, addrs, t.fallbackDelay(), dial, closeRaced)
	}
	if c == nil {
		return nil, failures(errs...)
	}
	return c, nil
}

// closeRaced closes a connection that came too late. Its peer sees a FIN.
func closeRaced(c *Conn) { _ = c.Close() } // nothing was written, so nothing can be lost

// dialAs connects to one address, and waits for the 4-tuple where the policy is to wait. Nothing
// tells when a 4-tuple becomes free, so it tries again and again, which sends nothing.
func (t *Transport) dialAs(ctx context.Context, raddr netip.AddrPort, use PortUse) (*Conn, error) {
	if use != AwaitReuse {
		return t.dial(ctx, raddr, use)
	}
	for wait := time.Millisecond; ; wait = min(2*wait, maxTupleWait) {
		c, err := t.dial(ctx, raddr, RequireReuse)
		if !errors.Is(err, ErrTupleInUse) {
			return c, err
		}
		if !sleep(ctx, wait) {
			return nil, failures(err, contextError(ctx, netip.AddrPort{}, raddr))
		}
	}
}

// maxTupleWait bounds the time between two tries for a 4-tuple.
const maxTupleWait = 32 * time.Millisecond

// dial connects to one address. It tries the local addresses that fit, best first. After a
// fault of the local address it goes on to the next one, and in the end to an ephemeral port
// if the policy allows it. Any other error ends the dial.
//
// If a stranger holds the port on another address of the host, binding the wildcard
// conflicts, while binding the exact address works (TestStrangerOnSamePort in lab). After
// such a conflict dial asks for the source and chooses the local addresses once more.
func (t *Transport) dial(ctx context.Context, raddr netip.AddrPort, use PortUse) (*Conn, error) {
	now := t.listening()
	a := attempt{t: t, raddr: dialable(raddr), listeners: now.addrs, use: use, pick: rand.Uint32()}
	a.few = now.sorted.few(a.raddr, a.pick)
	if now.shut {
		return nil, a.dialError(errShutdown)
	}
	if err := a.choose(ctx); err != nil {
		return nil, a.dialError(err)
	}
	var room [maxCandidates]netip.AddrPort // on the stack; more candidates cost an allocation
	exact := use == RequireReuse
	for again := use != NewPort; again; exact = true {
		laddrs, err := a.localAddrs(ctx, room[:0], exact)
		if err != nil {
			return nil, err
		}
		for _, laddr := range laddrs {
			tcp, err := a.connectUnlessHeld(ctx, laddr)
			if err == nil {
				return a.finish(tcp), nil
			}
			if err := a.blame(ctx, laddr, err); err != nil {
				return nil, err
			}
		}
		again = a.cause == BindConflict && !a.source.IsValid() && !a.chosen && needsSource(a.few, a.raddr, true)
	}
	if use == RequireReuse {
		return nil, a.noReuse()
	}
	return a.fromNewPort(ctx)
}

// connectUnlessHeld is connectFrom, unless a connection of ours has the 4-tuple: then it makes no
// socket. With RequireReuse the system has the word.
func (a *attempt) connectUnlessHeld(ctx context.Context, laddr netip.AddrPort) (*net.TCPConn, error) {
	if a.use != RequireReuse && a.t.isHeld(ctx, laddr, a.raddr) {
		return nil, opError("dial", netaddr.Network(a.raddr.Addr()), laddr, a.raddr, errTupleHeld)
	}
	return a.connectFrom(ctx, laddr)
}

// connectFrom dials from laddr, by the health of its path where a hedge is allowed. It dials
// again while a close of ours holds the 4-tuple.
func (a *attempt) connectFrom(ctx context.Context, laddr netip.AddrPort) (tcp *net.TCPConn, err error) {
	for try := 0; ; try++ {
		if a.mayHedge() {
			tcp, err = a.connectByHealth(ctx, laddr)
		} else {
			tcp, err = a.t.connect(ctx, laddr, a.raddr)
		}
		if localFault(err) != TupleInUse || !a.awaitRelease(ctx, laddr, try) {
			return tcp, err
		}
	}
}

// portUse returns the policy in force for one dial.
func (t *Transport) portUse(ctx context.Context) (PortUse, error) {
	use, ok := PortUseOf(ctx)
	if !ok {
		use = t.PortUse
	}
	return use, use.check()
}
