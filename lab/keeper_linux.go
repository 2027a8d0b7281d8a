package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
)

// firstPipe is the first pipe descriptor that the keeper inherits. Each host with a
// role has two, see startHosts.
const firstPipe = 3

// keeper is the state of the process that owns the namespaces: it makes them,
// connects them, runs the wires and starts the hosts. It is the init process of its
// own PID namespace, so the kernel ends every host with it.
type keeper struct {
	mu      sync.Mutex
	topo    Topology
	nodes   map[string]*node
	wires   map[string]*wire
	running map[string]*exec.Cmd
}

func runKeeper() error {
	// A thread that enters another namespace never leaves it (see in). The main
	// thread must stay here: /proc/self shows its namespace.
	runtime.LockOSThread()
	p := newProcess(kindKeeper, os.Stdin, os.Stdout)
	os.Stdout = os.Stderr
	k := &keeper{nodes: map[string]*node{}, wires: map[string]*wire{}, running: map[string]*exec.Cmd{}}
	Handle(p, "build", k.build)
	Handle(p, "exits", k.exits)
	k.handleChanges(p)
	return p.finish(p.Serve())
}

func (k *keeper) handleChanges(p *Process) {
	for op, fn := range map[string]func(*node, change) error{
		"addAddr":   (*node).addAddr,
		"delAddr":   (*node).delAddr,
		"deprecate": (*node).deprecate,
		"addRoute":  (*node).addRoute,
		"delRoute":  (*node).delRoute,
		"addRule":   (*node).addRule,
		"delRule":   (*node).delRule,
		"setLink":   (*node).setLink,
		"setSysctl": (*node).setSysctl,
	} {
		Handle(p, op, func(_ context.Context, c change) (none, error) { return none{}, k.onHost(c, fn) })
	}
	Handle(p, "setWire", func(_ context.Context, c change) (none, error) { return none{}, k.setWire(c) })
	Handle(p, "log", func(_ context.Context, name string) (Log, error) { return k.log(name) })
	Handle(p, "clearLog", func(_ context.Context, name string) (none, error) { return none{}, k.clearLog(name) })
}

// build makes the network and starts its hosts.
func (k *keeper) build(_ context.Context, t Topology) (none, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	cables, err := plan(t)
	if err != nil {
		return none{}, err
	}
	k.topo = t
	// The keeper's own namespace holds only far ends of cables. Its kernel must send
	// nothing there.
	if err := writeSysctl("net.ipv6.conf.default.disable_ipv6", "1"); err != nil {
		return none{}, err
	}
	for _, step := range []func() error{
		k.makeNodes, func() error { return k.layCables(cables) }, k.configure, k.startWires, k.startHosts,
	} {
		if err := step(); err != nil {
			return none{}, err
		}
	}
	return none{}, nil
}

func (k *keeper) makeNodes() error {
	for name, h := range k.topo.Hosts {
		n, err := newNode(name, h)
		if err != nil {
			return fmt.Errorf("host %s: %w", name, err)
		}
		k.nodes[name] = n
	}
	return nil
}

func (k *keeper) configure() error {
	for name, n := range k.nodes {
		if err := n.configure(); err != nil {
			return fmt.Errorf("host %s: %w", name, err)
		}
	}
	return nil
}

// startHosts starts the processes. The host that is i-th by name has its input on
// descriptor firstPipe + 2i and its output on the next one.
func (k *keeper) startHosts() error {
	names := actors(k.topo)
	// What the keeper inherited it would pass on to every host, and a host to the
	// programs that it starts: one that outlives its host would hide the host's end
	// (TestHostInheritsNothing).
	for i := range 2 * len(names) {
		syscall.CloseOnExec(firstPipe + i)
	}
	for i, name := range names {
		in := os.NewFile(uintptr(firstPipe+2*i), name+" in")
		out := os.NewFile(uintptr(firstPipe+2*i+1), name+" out")
		cmd, err := k.nodes[name].start(in, out)
		if err := errors.Join(err, in.Close(), out.Close()); err != nil {
			return fmt.Errorf("host %s: %w", name, err)
		}
		k.running[name] = cmd
	}
	return nil
}

// exits waits for all hosts and returns how the failed ones ended.
func (k *keeper) exits(context.Context, none) (map[string]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	bad := map[string]string{}
	for name, cmd := range k.running {
		if err := cmd.Wait(); err != nil {
			bad[name] = err.Error()
		}
	}
	clear(k.running)
	return bad, nil
}

func (k *keeper) onHost(c change, fn func(*node, change) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	n, ok := k.nodes[c.Host]
	if !ok {
		return fmt.Errorf("%w: no host %q", ErrTopology, c.Host)
	}
	return fn(n, c)
}

func (k *keeper) wire(name string) (*wire, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	w, ok := k.wires[name]
	if !ok {
		return nil, fmt.Errorf("%w: no wire %q", ErrTopology, name)
	}
	return w, nil
}

func (k *keeper) setWire(c change) error {
	w, err := k.wire(c.Link)
	if err != nil {
		return err
	}
	return w.set(c.Wire)
}

func (k *keeper) log(name string) (Log, error) {
	w, err := k.wire(name)
	if err != nil {
		return Log{}, err
	}
	return w.packets(), nil
}

func (k *keeper) clearLog(name string) error {
	w, err := k.wire(name)
	if err != nil {
		return err
	}
	w.clear()
	return nil
}

// startWires starts the wires in a fixed order.
func (k *keeper) startWires() error {
	for _, name := range slices.Sorted(maps.Keys(k.wires)) {
		if err := k.wires[name].start(); err != nil {
			return fmt.Errorf("wire %s: %w", name, err)
		}
	}
	return nil
}
