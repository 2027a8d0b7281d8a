package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"
)

const (
	// buildLimit bounds the time to build a network, even one of twenty hosts on a
	// busy machine.
	buildLimit = 90 * time.Second

	// closeLimit bounds the time that the hosts may take to end.
	closeLimit = 30 * time.Second
)

// Network is a running topology. Its methods may be called concurrently. It ends with
// Close, or with the process that built it.
type Network struct {
	topo   Topology
	keeper *session
	hosts  map[string]*session
	cmd    *exec.Cmd
	output *syncBuffer

	closing  sync.Once
	closeErr error
}

// Log is what a wire has recorded, in the order of arrival.
type Log struct {
	Packets []Packet
	Missed  int // packets that arrived after the log was full
}

// Start builds topo for a test and closes it when the test ends. Where namespaces are
// refused it skips the test, or fails it if CI is set in the environment. The test
// also fails if a host does not pass, see [Role].
func Start(t testing.TB, topo Topology) *Network {
	t.Helper()
	n, err := Build(t.Context(), topo)
	if errors.Is(err, ErrRefused) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() && n.Output() != "" {
			t.Logf("the hosts wrote:\n%s", n.Output())
		}
	})
	return n
}

// Build makes the namespaces of topo, connects them, starts the hosts and returns
// when all of them serve. Its error is [ErrTopology], [ErrRefused], or what a role
// returned. ctx bounds only the building. The caller must close the network.
func Build(ctx context.Context, topo Topology) (*Network, error) {
	if _, err := plan(topo); err != nil {
		return nil, err
	}
	if os.Getenv(envKind) != "" {
		return nil, fmt.Errorf("%w: a host cannot build a network", ErrTopology)
	}
	n, err := start(topo)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	if err := n.waitReady(ctx); err != nil {
		err = errors.Join(err, n.kill())
		return nil, fmt.Errorf("%w\n%s", err, n.Output())
	}
	return n, nil
}

// start starts the keeper, with the pipes for the hosts it will start.
func start(topo Topology) (*Network, error) {
	n := &Network{topo: topo, hosts: map[string]*session{}, output: &syncBuffer{}}
	pipes, err := n.openPipes()
	defer closeAll(pipes)
	if err != nil {
		n.closeInputs()
		return nil, err
	}
	// The last two are the keeper's standard input and output; it passes the others
	// on.
	own, hosts := pipes[len(pipes)-2:], pipes[:len(pipes)-2]
	n.cmd, err = startKeeper(own[0], own[1], hosts, n.output)
	if err != nil {
		n.closeInputs()
		return nil, refusal(err)
	}
	return n, nil
}

// openPipes makes a session for each process and returns the ends for the processes:
// the input and output of each host by name, then the keeper's.
func (n *Network) openPipes() ([]*os.File, error) {
	var theirs []*os.File
	for _, name := range append(actors(n.topo), kindKeeper) {
		s, files, err := newPipes(name)
		theirs = append(theirs, files...)
		if err != nil {
			return theirs, err
		}
		if name == kindKeeper {
			n.keeper = s
		} else {
			n.hosts[name] = s
		}
	}
	return theirs, nil
}

func newPipes(name string) (*session, []*os.File, error) {
	theirIn, in, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		return nil, []*os.File{theirIn}, errors.Join(err, in.Close())
	}
	return newSession(name, in, out), []*os.File{theirIn, theirOut}, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // passed on; nothing was written here
	}
}

func (n *Network) closeInputs() {
	for _, s := range n.hosts {
		_ = s.in.Close() // nothing reads it
	}
	if n.keeper != nil {
		_ = n.keeper.in.Close() // nothing reads it
	}
}

func (n *Network) waitReady(ctx context.Context) error {
	if err := n.keeper.waitReady(ctx); err != nil {
		return fmt.Errorf("%w (does TestMain call lab.Main?)", err)
	}
	if err := n.keeper.call(ctx, "build", n.topo, nil); err != nil {
		return refusal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(n.hosts)) {
		if err := n.hosts[name].waitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// actors returns the names of the hosts that are processes, sorted.
func actors(t Topology) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(t.Hosts)) {
		if t.Hosts[name].Role != "" {
			names = append(names, name)
		}
	}
	return names
}

// Close ends the hosts and the network. It returns an error if a role failed, or if a
// process crashed, reported a data race or does not end. A second Close returns the
// same result.
func (n *Network) Close() error {
	n.closing.Do(func() { n.closeErr = n.end() })
	return n.closeErr
}

func (n *Network) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	for _, s := range n.hosts {
		s.end()
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(n.hosts)) {
		errs = append(errs, n.hosts[name].wait(ctx))
	}
	errs = append(errs, n.closeKeeper(ctx))
	return errors.Join(errs...)
}

func (n *Network) closeKeeper(ctx context.Context) error {
	var bad map[string]string
	if err := n.keeper.call(ctx, "exits", none{}, &bad); err != nil {
		return errors.Join(err, n.kill())
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(bad)) {
		errs = append(errs, fmt.Errorf("lab: %s: %s", name, bad[name]))
	}
	n.keeper.end()
	if err := n.keeper.wait(ctx); err != nil {
		return errors.Join(append(errs, err, n.kill())...)
	}
	return errors.Join(append(errs, n.cmd.Wait())...)
}

// kill ends everything at once: the keeper is the init process of all hosts.
func (n *Network) kill() error {
	n.closeInputs()
	if err := n.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_ = n.cmd.Wait() // "signal: killed"
	return nil
}

// Output returns what the hosts and the lab wrote to standard output and error.
func (n *Network) Output() string { return n.output.String() }

// Call runs op on a host with the argument in, and stores the result in out, which
// may be nil. Its error is a [RemoteError], [ErrEnded], or that of ctx. The end of
// ctx does not end op.
func (n *Network) Call(ctx context.Context, host, op string, in, out any) error {
	s, ok := n.hosts[host]
	if !ok {
		return fmt.Errorf("%w: no host %q with a role", ErrTopology, host)
	}
	return s.call(ctx, op, in, out)
}

// Call is [Network.Call] with a typed result.
func Call[Out any](ctx context.Context, n *Network, host, op string, in any) (Out, error) {
	var out Out
	err := n.Call(ctx, host, op, in, &out)
	return out, err
}

func (n *Network) tell(op string, in, out any) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	return n.keeper.call(ctx, op, in, out)
}

// AddAddr gives a host more addresses on a link, in the form of [On].
func (n *Network) AddAddr(host, link, addrs string) error {
	return n.tell("addAddr", change{Host: host, Link: link, Addr: addrs}, nil)
}

// DelAddr removes addresses from a host. The kernel drops the routes that used them.
func (n *Network) DelAddr(host, link, addrs string) error {
	return n.tell("delAddr", change{Host: host, Link: link, Addr: addrs}, nil)
}

// Deprecate makes IPv6 addresses of a host deprecated (RFC 4862 section 5.5.4): they go on working,
// and the kernel chooses another one as the source where it can. addrs is as in AddAddr.
func (n *Network) Deprecate(host, link, addrs string) error {
	return n.tell("deprecate", change{Host: host, Link: link, Addr: addrs}, nil)
}

// AddRoute adds a route, or replaces the one to the same prefix in the same table.
func (n *Network) AddRoute(host string, r Route) error {
	return n.tell("addRoute", change{Host: host, Route: r}, nil)
}

// DelRoute deletes a route.
func (n *Network) DelRoute(host string, r Route) error {
	return n.tell("delRoute", change{Host: host, Route: r}, nil)
}

// AddRule adds a policy rule.
func (n *Network) AddRule(host string, r Rule) error {
	return n.tell("addRule", change{Host: host, Rule: r}, nil)
}

// DelRule deletes a policy rule.
func (n *Network) DelRule(host string, r Rule) error {
	return n.tell("delRule", change{Host: host, Rule: r}, nil)
}

// SetLink brings a host's link up or down. Addresses stay. The kernel drops the
// routes through a gateway on a link that goes down.
func (n *Network) SetLink(host, link string, up bool) error {
	return n.tell("setLink", change{Host: host, Link: link, Up: up}, nil)
}

// SetSysctl sets a sysctl of a host. Its dotted name begins with "net.".
func (n *Network) SetSysctl(host, name, value string) error {
	return n.tell("setSysctl", change{Host: host, Sysctl: name, Value: value}, nil)
}

// SetWire changes how a wire treats frames from now on.
func (n *Network) SetWire(wire string, w Wire) error {
	return n.tell("setWire", change{Link: wire, Wire: w}, nil)
}

// Log returns what a wire has recorded so far.
func (n *Network) Log(wire string) (Log, error) {
	var l Log
	err := n.tell("log", wire, &l)
	return l, err
}

// ClearLog clears the record of a wire.
func (n *Network) ClearLog(wire string) error { return n.tell("clearLog", wire, nil) }

// SYNs returns the packets that open a connection, including lost and dropped ones.
func (l Log) SYNs() []Packet { return l.Select(Packet.IsSYN) }

// Select returns the packets for which keep returns true.
func (l Log) Select(keep func(Packet) bool) []Packet {
	var some []Packet
	for _, p := range l.Packets {
		if keep(p) {
			some = append(some, p)
		}
	}
	return some
}

// syncBuffer is a buffer that one goroutine may read while another writes.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

var _ io.Writer = (*syncBuffer)(nil)

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
