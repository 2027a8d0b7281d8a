//go:build !plan9

package reuseport

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/reusetransport/reuseport/internal/pathhealth"
	"github.com/reusetransport/reuseport/internal/sockopt"
)

// These tests play dials that do not exist, at a clock of their own (testing/synctest). The
// same with real packets is in lab, path_linux_test.go.

// connected returns one end of a real connection on loopback, which stands for what a dial
// brings.
func connected(t *testing.T) *net.TCPConn {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // the test may have closed it
	return c.(*net.TCPConn)
}

// isOpen reports whether c was not closed.
func isOpen(c *net.TCPConn) bool { return !errors.Is(c.SetDeadline(time.Time{}), net.ErrClosed) }

// after returns a dial that ends with tcp or err after d, or with the error of its context.
func after(d time.Duration, tcp *net.TCPConn, err error) dialFunc {
	return func(ctx context.Context) (*net.TCPConn, error) {
		select {
		case <-time.After(d):
			return tcp, err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func never(t *testing.T) dialFunc {
	return func(context.Context) (*net.TCPConn, error) {
		t.Error("a dial that should not have started")
		return nil, errors.ErrUnsupported
	}
}

// A dialFunc makes one dial.
type dialFunc func(ctx context.Context) (*net.TCPConn, error)

// played are two dials of which the system knows nothing.
type played struct{ one, two dialFunc }

func (p played) first(ctx context.Context) (*net.TCPConn, error)  { return p.one(ctx) }
func (p played) second(ctx context.Context) (*net.TCPConn, error) { return p.two(ctx) }
func (p played) isConnected() bool                                { return false }
func (p played) endsEarly() bool                                  { return false }

// playedDialers are the dials that dialByHealth chooses from. A nil connected is false.
type playedDialers struct {
	listener  func(ctx context.Context, bounded bool) (*net.TCPConn, error)
	connected func() bool
	newPort   dialFunc
}

func (p playedDialers) fromListener(ctx context.Context, bounded bool) (*net.TCPConn, error) {
	return p.listener(ctx, bounded)
}

func (p playedDialers) fromNewPort(ctx context.Context) (*net.TCPConn, error) { return p.newPort(ctx) }

func (p playedDialers) isConnected() bool { return p.connected != nil && p.connected() }

var (
	errRefused = opError("dial", "tcp4", netip.AddrPort{}, hedgeTarget, syscall.ECONNREFUSED)
	errNoRoute = opError("dial", "tcp4", netip.AddrPort{}, hedgeTarget, syscall.EHOSTUNREACH)

	hedgeTarget   = netip.MustParseAddrPort("240.0.0.1:80")   // reserved (RFC 1112): goes nowhere
	hedgeListener = netip.MustParseAddrPort("127.0.0.1:4001") // where the played connections leave from
)

const (
	headStart = time.Second
	silent    = time.Hour
)

func TestHedged(t *testing.T) {
	first, second := connected(t), connected(t)
	for _, row := range []struct {
		why           string
		first, second dialFunc
		want          *net.TCPConn
		err           error
		at            time.Duration
	}{
		{"the first answers in time", after(headStart/2, first, nil), never(t), first, nil, headStart / 2},
		{"the first is refused in time", after(headStart/2, nil, errRefused), never(t), nil, syscall.ECONNREFUSED, headStart / 2},
		{"the first is silent", after(silent, first, nil), after(time.Millisecond, second, nil), second, nil, headStart + time.Millisecond},
		{"the first is slow and still ahead", after(headStart+time.Second, first, nil), after(2*time.Second, second, nil), first, nil, headStart + time.Second},
		{"the second is refused: the peer's answer", after(silent, nil, nil), after(time.Millisecond, nil, errRefused), nil, syscall.ECONNREFUSED, headStart + time.Millisecond},
		{"the second has no route, the first goes on", after(5*time.Second, first, nil), after(0, nil, errNoRoute), first, nil, 5 * time.Second},
		{"both fail", after(5*time.Second, nil, errRefused), after(0, nil, errNoRoute), nil, syscall.EHOSTUNREACH, 5 * time.Second},
		{"the second need not start", after(5*time.Second, nil, errNoRoute), after(0, nil, errNotHedged), nil, syscall.EHOSTUNREACH, 5 * time.Second},
	} {
		t.Run(row.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				got, bySecond, err := hedged(t.Context(), headStart, played{row.first, row.second})
				if got != row.want || !errors.Is(err, row.err) {
					t.Errorf("%v, %v; want %v, %v", got, err, row.want, row.err)
				}
				if bySecond != (row.want == second) {
					t.Errorf("by the second dial: %v", bySecond)
				}
				if at := time.Since(began); at != row.at {
					t.Errorf("after %v, want %v", at, row.at)
				}
			})
		})
	}
}

// TestHedgedErrors: the error of two dials has both, and a hedge that did not start is no
// part of it.
func TestHedgedErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, err := hedged(t.Context(), headStart, played{after(3*time.Second, nil, errRefused), after(0, nil, errNoRoute)})
		if !errors.Is(err, syscall.ECONNREFUSED) || !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("%v; want both errors", err)
		}
		_, _, err = hedged(t.Context(), headStart, played{after(3*time.Second, nil, errRefused), after(0, nil, errNotHedged)})
		if err != error(errRefused) {
			t.Errorf("%#v; want the first dial's error as it is", err)
		}
	})
}

// TestHedgedClosesLoser: of two connections the one that is not the result is closed, and
// the one that is stays open.
func TestHedgedClosesLoser(t *testing.T) {
	for why, at := range map[string]struct{ first, second time.Duration }{
		"both connect at one moment":       {headStart + 10*time.Millisecond, 10 * time.Millisecond},
		"the second connects too late":     {headStart + 10*time.Millisecond, 20 * time.Millisecond},
		"the second ignores its ended ctx": {headStart + 10*time.Millisecond, silent},
	} {
		t.Run(why, func(t *testing.T) {
			first, second := connected(t), connected(t)
			synctest.Test(t, func(t *testing.T) {
				stubborn := func(context.Context) (*net.TCPConn, error) {
					time.Sleep(at.second)
					return second, nil
				}
				deaf := func(context.Context) (*net.TCPConn, error) { // as if its handshake was over already
					time.Sleep(at.first)
					return first, nil
				}
				got, _, err := hedged(t.Context(), headStart, played{deaf, stubborn})
				if got != first || err != nil {
					t.Errorf("%v, %v; want the first", got, err)
				}
				time.Sleep(at.second + time.Second)
				synctest.Wait()
			})
			if !isOpen(first) {
				t.Error("the result was closed")
			}
			if isOpen(second) {
				t.Error("the loser is open")
			}
		})
	}
}

// TestHedgedContext: the end of the context ends both dials.
func TestHedgedContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*headStart)
		defer cancel()
		var running atomic.Int32
		count := func(ctx context.Context) (*net.TCPConn, error) {
			running.Add(1)
			<-ctx.Done()
			running.Add(-1)
			return nil, ctx.Err()
		}
		if _, _, err := hedged(ctx, headStart, played{count, count}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v; want context.DeadlineExceeded", err)
		}
		synctest.Wait()
		if n := running.Load(); n != 0 {
			t.Errorf("%d dials still run", n)
		}
	})
}

// TestHedgedEndsSecond: the result of the first dial ends the second at once.
func TestHedgedEndsSecond(t *testing.T) {
	first := connected(t)
	synctest.Test(t, func(t *testing.T) {
		var ended time.Time
		second := func(ctx context.Context) (*net.TCPConn, error) {
			select {
			case <-ctx.Done():
			case <-time.After(silent):
			}
			ended = time.Now()
			return nil, ctx.Err()
		}
		if got, _, err := hedged(t.Context(), headStart, played{after(headStart+time.Second, first, nil), second}); got != first || err != nil {
			t.Errorf("%v, %v; want the first", got, err)
		}
		result := time.Now()
		synctest.Wait()
		if ended != result {
			t.Errorf("the second dial ended at %v, the first at %v", ended, result)
		}
	})
}

// TestHedgeTooLate: a hedge whose dial has its result does not start.
func TestHedgeTooLate(t *testing.T) {
	h := &hedge{hedgeDials: played{nil, never(t)}, ctx: t.Context(), over: true, finished: make(chan struct{})}
	h.run()
}

// A hedgeStory is a Transport whose dials are played. Those from the listening port are
// silent unless answered is set; those from an ephemeral port are answered at once unless
// dead is set.
type hedgeStory struct {
	*testing.T
	tr             Transport
	log            strings.Builder
	answered, dead bool
	within         time.Duration // of each dial
	conn           *net.TCPConn
}

func newHedgeStory(t *testing.T, conn *net.TCPConn) *hedgeStory {
	s := &hedgeStory{T: t, conn: conn, within: 10 * time.Second}
	s.tr.HedgeDelay = headStart
	s.tr.Logger = slog.New(slog.NewTextHandler(&s.log, nil))
	return s
}

// dial dials raddr and returns how long it took.
func (s *hedgeStory) dial(raddr netip.AddrPort) (took time.Duration, hedgeWon bool, err error) {
	began := time.Now()
	fromListener, fromNewPort := after(silent, nil, nil), after(0, s.conn, nil)
	if s.answered {
		fromListener = after(0, s.conn, nil)
	}
	if s.dead {
		fromNewPort = after(silent, nil, nil)
	}
	ctx, cancel := context.WithTimeout(s.Context(), s.within)
	defer cancel()
	tcp, hedgeWon, err := s.tr.dialByHealth(ctx, hedgeListener, raddr, playedDialers{
		listener: func(ctx context.Context, bounded bool) (*net.TCPConn, error) { return fromListener(ctx) },
		newPort:  fromNewPort,
	})
	if tcp != nil && !hedgeWon {
		s.tr.recordHandshake(hedgeListener, raddr)
	}
	return time.Since(began), hedgeWon, err
}

// want dials raddr and checks what comes of it.
func (s *hedgeStory) want(raddr netip.AddrPort, within time.Duration, hedgeWon bool, want error) {
	s.Helper()
	took, won, err := s.dial(raddr)
	if took != within || won != hedgeWon || !errors.Is(err, want) {
		s.Errorf("%v: after %v, hedge won %v, %v; want after %v, %v, %v", raddr, took, won, err, within, hedgeWon, want)
	}
}

// wantState checks what Stats says of the path.
func (s *hedgeStory) wantState(want PathState) {
	s.Helper()
	paths := s.tr.Stats().Paths
	if len(paths) != 1 || paths[0].State != want || paths[0].Source != hedgeListener {
		s.Errorf("paths %+v; want %v to be %v", paths, hedgeListener, want)
	}
}

// wantLog checks that a line was logged so many times.
func (s *hedgeStory) wantLog(line string, times int) {
	s.Helper()
	if n := strings.Count(s.log.String(), line); n != times {
		s.Errorf("%q was logged %d times, want %d", line, n, times)
	}
}

// hostIn returns a host in network n of its own.
func hostIn(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{240, byte(n), 0, 1}), 80)
}

// TestDialByHealth: a path that drops the listening port costs a head start once for a host,
// and ever less for further ones. Hosts in 24 networks block it, one dial in 30 s probes it,
// and a handshake ends the block. Stats and the log tell.
func TestDialByHealth(t *testing.T) {
	conn := connected(t)
	synctest.Test(t, func(t *testing.T) {
		s := newHedgeStory(t, conn)
		s.want(hostIn(1), time.Second, true, nil)
		s.want(hostIn(1), 0, false, errPathSilent)
		for n, took := range []time.Duration{time.Second / 2, time.Second / 4, time.Second / 8, time.Second / 8} {
			s.want(hostIn(2+n), took, true, nil)
		}
		s.wantState(PathUnproven)
		for n := 6; n <= 24; n++ {
			s.want(hostIn(n), time.Second/8, true, nil)
		}
		s.wantState(PathBlocked)
		s.wantLog("path blocked", 1)
		s.want(hostIn(25), 0, false, errPathSilent)
		time.Sleep(30 * time.Second)
		s.answered = true
		s.want(hostIn(25), 0, false, nil)
		s.wantState(PathProven)
		s.wantLog("path recovered", 1)
		s.want(hostIn(26), 0, false, nil)
		s.wantLog("path recovered", 1)
		if n := s.tr.Stats(); n.Hedges != 24 || n.HedgeWins != 24 {
			t.Errorf("%d hedges, %d wins; want 24 of both", n.Hedges, n.HedgeWins)
		}
	})
}

// boundsSYNs skips a test where the system cannot bound SYNs.
func boundsSYNs(t *testing.T) {
	t.Helper()
	if sockopt.BoundedFor == 0 {
		t.Skip("this system does not bound the SYNs of a connect")
	}
}

// tooShort is too short for a hand-over, and longer than the head start.
const tooShort = 2500 * time.Millisecond

// deadDials makes dials of hosts that never answer, all at once. A hedge that waits for the
// budget when the time ends is no part of the error.
func (s *hedgeStory) deadDials(count int) {
	s.dead = true
	var dials sync.WaitGroup
	for n := range count {
		dials.Go(func() {
			took, _, err := s.dial(hostIn(n))
			if _, joined := errors.AsType[*DialError](err); took != s.within || !errors.Is(err, context.DeadlineExceeded) || joined {
				s.Errorf("after %v: %v", took, err)
			}
		})
	}
	dials.Wait()
}

// wantHedges checks how many hedges took from the budget, and how many needed not.
func (s *hedgeStory) wantHedges(hedges, handOvers uint64) {
	s.Helper()
	if n := s.tr.Stats(); n.Hedges != hedges || n.HandOvers != handOvers {
		s.Errorf("%d hedges and %d hand-overs, want %d and %d", n.Hedges, n.HandOvers, hedges, handOvers)
	}
}

// TestHedgeBudget: early hedges are bounded. The other dials are handed over, if there is time
// for it and the system can bound SYNs.
func TestHedgeBudget(t *testing.T) {
	conn := connected(t)
	synctest.Test(t, func(t *testing.T) {
		s := newHedgeStory(t, conn)
		s.within = tooShort
		s.deadDials(40)
		s.wantHedges(32, 0)
	})
	synctest.Test(t, func(t *testing.T) {
		boundsSYNs(t)
		s := newHedgeStory(t, conn)
		s.deadDials(40)
		s.wantHedges(32, 8)
	})
}

// TestHedgeAsksAgain: a dial without time for a hand-over gets a token that comes late.
func TestHedgeAsksAgain(t *testing.T) {
	conn := connected(t)
	synctest.Test(t, func(t *testing.T) {
		s := newHedgeStory(t, conn)
		s.within = tooShort
		s.deadDials(32)
		time.Sleep(5*time.Second - tooShort - headStart/5) // the first token comes 1.2 s after the next dial begins
		s.dead = false
		if took, won, err := s.dial(hostIn(99)); !won || err != nil || took <= headStart || took > 2*headStart {
			t.Errorf("after %v, won %v, %v", took, won, err)
		}
	})
}

// TestSuspectHost: a dial that ran out of time without a hedge makes the next one to the host a
// hedged one, although the path is proven.
func TestSuspectHost(t *testing.T) {
	conn := connected(t)
	synctest.Test(t, func(t *testing.T) {
		s := newHedgeStory(t, conn)
		s.tr.recordHandshake(hedgeListener, hostIn(7))
		s.within = tooShort
		s.want(hostIn(1), tooShort, false, context.DeadlineExceeded)
		s.wantHedges(0, 0)
		s.want(hostIn(1), headStart/8, true, nil)
		s.wantState(PathProven)
	})
}

// TestHandOver: on a proven path the hedge comes in place of the last SYNs.
func TestHandOver(t *testing.T) {
	boundsSYNs(t)
	conn := connected(t)
	synctest.Test(t, func(t *testing.T) {
		s := newHedgeStory(t, conn)
		s.tr.recordHandshake(hedgeListener, hostIn(7))
		if took, won, err := s.dial(hostIn(1)); !won || err != nil || took < 2*time.Second || took > 3100*time.Millisecond {
			t.Errorf("after %v, won %v, %v", took, won, err)
		}
		s.wantHedges(0, 1)
		s.want(hostIn(1), 0, false, errPathSilent)
		s.wantLog("hedge won", 0) // the level is info
	})
}

// TestHedgeOfStoppedProcess: the system knows that the first dial is connected before the dial
// does, because the process was stopped. No hedge starts then, and none wins.
func TestHedgeOfStoppedProcess(t *testing.T) {
	first, second := connected(t), connected(t)
	for why, connectedAfter := range map[string]time.Duration{
		"connected before the hedge starts": headStart / 2, "connected before it wins": headStart + time.Second/2,
	} {
		t.Run(why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newHedgeStory(t, nil)
				began, hedges := time.Now(), 0
				tcp, won, err := s.tr.dialByHealth(t.Context(), hedgeListener, hostIn(1), playedDialers{
					listener:  func(ctx context.Context, _ bool) (*net.TCPConn, error) { return after(2*headStart, first, nil)(ctx) },
					connected: func() bool { return time.Since(began) >= connectedAfter },
					newPort: func(ctx context.Context) (*net.TCPConn, error) {
						hedges++
						return after(time.Second*3/4, second, nil)(ctx)
					},
				})
				if tcp != first || won || err != nil {
					t.Errorf("%v, hedge won %v, %v; want the first dial", tcp, won, err)
				}
				if want := 0; connectedAfter < headStart && hedges != want {
					t.Errorf("%d hedges", hedges)
				}
			})
		})
	}
	if isOpen(second) || !isOpen(first) {
		t.Error("the loser is open, or the result is not")
	}
}

// TestGaveUp: where the system gives up after 3 s, the hedge goes on alone, and its error
// is the dial's. If the hedge finds no port, the listening port goes on.
func TestGaveUp(t *testing.T) {
	boundsSYNs(t)
	conn := connected(t)
	errGaveUp := opError("dial", "tcp4", hedgeListener, hedgeTarget, os.NewSyscallError("connect", syscall.ETIMEDOUT))
	synctest.Test(t, func(t *testing.T) {
		s := newHedgeStory(t, conn)
		var bounded []bool // of the dials from the listening port
		dial := func(fromNewPort dialFunc) (*net.TCPConn, bool, error) {
			ctx, cancel := context.WithTimeout(t.Context(), s.within)
			defer cancel()
			return s.tr.dialByHealth(ctx, hedgeListener, hedgeTarget, playedDialers{
				listener: func(ctx context.Context, isBounded bool) (*net.TCPConn, error) {
					bounded = append(bounded, isBounded)
					return after(3*time.Second, nil, errGaveUp)(ctx)
				},
				newPort: fromNewPort,
			})
		}
		if tcp, won, err := dial(after(5*time.Second, conn, nil)); tcp != conn || !won || err != nil {
			t.Errorf("%v, %v, %v; want the hedge", tcp, won, err)
		}
		s.tr.health = pathhealth.Health{}
		noPort := opError("dial", "tcp4", netip.AddrPort{}, hedgeTarget, os.NewSyscallError("connect", syscall.EADDRNOTAVAIL))
		bounded = nil
		if _, won, err := dial(after(0, nil, noPort)); won || !slices.Equal(bounded, []bool{true, false}) || !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("hedge won %v, %v, bounded %v; want the listening port to go on", won, err, bounded)
		}
		s.tr.health = pathhealth.Health{}
		_, _, err := dial(after(7*time.Second, nil, opError("dial", "tcp4", netip.AddrPort{}, hedgeTarget, context.DeadlineExceeded)))
		if op, ok := err.(*net.OpError); !ok || !errors.Is(err, context.DeadlineExceeded) || op.Source == nil {
			t.Errorf("%v; want one timeout with the listening port", err)
		}
	})
}

// TestHedgeNotOnProvenPath: a dial that began on an unproven path does not start its hedge
// early once the path is proven.
func TestHedgeNotOnProvenPath(t *testing.T) {
	conn := connected(t)
	synctest.Test(t, func(t *testing.T) {
		s := newHedgeStory(t, conn)
		s.within = tooShort
		time.AfterFunc(headStart/2, func() { s.tr.recordHandshake(hedgeListener, hostIn(7)) })
		s.want(hostIn(1), tooShort, false, context.DeadlineExceeded)
		s.wantHedges(0, 0)
	})
}
