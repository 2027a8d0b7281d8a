package foreign_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/lab"
)

// long adds the rows that take long.
var long = flag.Bool("long", false, "run the rows that take long")

func TestMain(m *testing.M) {
	if os.Getenv(envChild) != "" {
		os.Exit(childMain())
	}
	// Most of the parallel tests sleep, so that more of them can run than there are
	// processors.
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	lab.Main(m, lab.Roles{"host": hostRole})
}

// site is where a row runs: the host of the programs, and the host of the transport.
type site struct {
	n                *lab.Network
	theirs, ours     string // hosts
	theirsAt, oursAt string // their addresses
}

// loopback returns a site of one host.
func loopback(t *testing.T) site {
	t.Helper()
	n := lab.Start(t, lab.Topology{Hosts: lab.Hosts{"h": {Role: "host"}}})
	return site{n: n, theirs: "h", ours: "h", theirsAt: "127.0.0.1", oursAt: "127.0.0.1"}
}

// network returns a site of two hosts.
//
//	them ── wire 20 ms ── us
func network(t *testing.T, sysctls map[string]string) site {
	t.Helper()
	n := lab.Start(t, lab.Topology{
		Wires: lab.Wires{"wire": plainWire()},
		Hosts: lab.Hosts{
			"them": {On: lab.On{"wire": "192.0.0.65/24"}, Role: "host", Sysctls: sysctls},
			"us":   {On: lab.On{"wire": "192.0.0.66/24"}, Role: "host", Sysctls: sysctls},
		},
	})
	return site{n: n, theirs: "them", ours: "us", theirsAt: "192.0.0.65", oursAt: "192.0.0.66"}
}

// plainWire has a round trip of 20 ms and loses nothing.
func plainWire() lab.Wire { return lab.Wire{Delay: 10 * time.Millisecond} }

// onBoth runs a test on loopback and on the network, beside other tests.
func onBoth(t *testing.T, test func(t *testing.T, s site)) {
	t.Parallel()
	t.Run("loopback", func(t *testing.T) { t.Parallel(); test(t, loopback(t)) })
	t.Run("network", func(t *testing.T) { t.Parallel(); test(t, network(t, nil)) })
}

// program returns the path of a program. Debian's own comes before what a user has
// put in front of it, and servers lie in directories that not every PATH has.
func program(t *testing.T, name string) string {
	t.Helper()
	for _, place := range []string{"/usr/bin/" + name, "/usr/sbin/" + name, name} {
		if path, err := exec.LookPath(place); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed", name)
	}
	t.Skipf("%s is not installed", name)
	return ""
}

// serve makes our host serve and returns the address.
func (s site) serve(ctx context.Context, v service) (string, error) {
	v.At = s.oursAt
	return lab.Call[string](ctx, s.n, s.ours, "serve", v)
}

// mustServe serves the same over each stack.
func (s site) mustServe(t *testing.T, v service) map[stack]string {
	t.Helper()
	addrs := map[stack]string{}
	for _, v.Stack = range stacks() {
		addr, err := s.serve(t.Context(), v)
		if err != nil {
			t.Fatal(err)
		}
		addrs[v.Stack] = addr
	}
	return addrs
}

// run runs a program on their host to its end.
func (s site) run(ctx context.Context, c command) (outcome, error) {
	return lab.Call[outcome](ctx, s.n, s.theirs, "run", c)
}

// start starts a program on their host that listens on a port. It returns its
// number for finish.
func (s site) start(ctx context.Context, c command) (int, error) {
	return lab.Call[int](ctx, s.n, s.theirs, "start", c)
}

// finish waits for the end of a program.
func (s site) finish(ctx context.Context, id int) (outcome, error) {
	return lab.Call[outcome](ctx, s.n, s.theirs, "finish", id)
}

// port returns a free port of their host.
func (s site) port(ctx context.Context) (int, error) {
	return lab.Call[int](ctx, s.n, s.theirs, "port", struct{}{})
}

// mustPort is port.
func (s site) mustPort(t *testing.T) int {
	t.Helper()
	port, err := s.port(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// mustStart is start.
func (s site) mustStart(t *testing.T, c command) {
	t.Helper()
	if _, err := s.start(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// whole is a try: their program copies what it reads to its standard output, which
// must be the answer, times over.
func (s site) whole(ctx context.Context, c command, size, times int) error {
	out, err := s.run(ctx, c)
	return errors.Join(err, out.check(size, times))
}

// send is a try: a program of theirs listens, our dialer sends it size bytes and
// closes, and the program copies them to its standard output.
func (s site) send(ctx context.Context, k stack, size int, program func(port int) command) error {
	port, err := s.port(ctx)
	if err != nil {
		return err
	}
	c := program(port)
	c.Port = port
	id, err := s.start(ctx, c)
	if err != nil {
		return err
	}
	to := fmt.Sprintf("%s:%d", s.theirsAt, port)
	err = s.n.Call(ctx, s.ours, "send", sending{Stack: k, From: s.oursAt, To: to, Size: size}, nil)
	if err != nil {
		return err
	}
	out, err := s.finish(ctx, id)
	return errors.Join(err, out.check(size, 1))
}
