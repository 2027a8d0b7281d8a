package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// node is a host's namespace as the keeper sees it.
type node struct {
	name string
	host Host
	ns   netns.NsHandle
	nl   *netlink.Handle
}

// defaultSysctls make all namespaces alike, whatever the machine's own settings: a
// new one inherits rp_filter from the machine. Duplicate address detection is off,
// since it would delay each IPv6 address by a second or more.
func defaultSysctls() map[string]string {
	return map[string]string{
		"net.ipv4.conf.all.rp_filter":                "0",
		"net.ipv4.conf.default.rp_filter":            "0",
		"net.ipv6.conf.all.disable_ipv6":             "0",
		"net.ipv6.conf.default.disable_ipv6":         "0",
		"net.ipv6.conf.all.accept_dad":               "0",
		"net.ipv6.conf.default.accept_dad":           "0",
		"net.ipv6.conf.default.router_solicitations": "0",
		"net.ipv6.conf.all.keep_addr_on_down":        "1",
		"net.ipv6.conf.default.addr_gen_mode":        "0",
		"net.ipv6.conf.default.accept_ra":            "0",
	}
}

// newNode makes a namespace with loopback up and the sysctls set.
func newNode(name string, h Host) (*node, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	n := &node{name: name, host: h, ns: ns}
	if err := n.in(n.enterFirst); err != nil {
		return nil, err
	}
	return n, n.setUp("lo")
}

// enterFirst does the parts of newNode that must run inside the namespace. A socket
// stays in the namespace in which it was made.
func (n *node) enterFirst() error {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	n.nl = nl
	return writeSysctls(n.host)
}

func newNamespace() (netns.NsHandle, error) {
	type result struct {
		ns  netns.NsHandle
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{err: fmt.Errorf("unshare: %w", err)}
			return
		}
		// netns.Get goes by process id, which does not work here: /proc shows the ids
		// of the outer PID namespace.
		ns, err := netns.GetFromPath("/proc/thread-self/ns/net")
		made <- result{ns, err}
	}()
	r := <-made
	return r.ns, r.err
}

// in runs fn on a thread inside the namespace. A process that fn starts is in the
// namespace too; a goroutine is not.
func (n *node) in(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := netns.Set(n.ns); err != nil {
			done <- fmt.Errorf("setns: %w", err)
			return
		}
		done <- fn()
	}()
	return <-done
}

func writeSysctls(h Host) error {
	all := defaultSysctls()
	if h.forwards() {
		all["net.ipv4.ip_forward"] = "1"
		all["net.ipv6.conf.all.forwarding"] = "1"
	}
	for name, value := range h.Sysctls {
		all[name] = value
	}
	for name, value := range all {
		if err := writeSysctl(name, value); err != nil {
			return err
		}
	}
	return nil
}

// writeSysctl sets a sysctl of the calling thread's namespace.
func writeSysctl(name, value string) error {
	if !strings.HasPrefix(name, "net.") {
		return fmt.Errorf("%w: sysctl %s is not a namespace's own", ErrTopology, name)
	}
	path := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
	return os.WriteFile(path, []byte(value), 0)
}

// configure gives the host its addresses, routes, rules, and its NAT or firewall.
func (n *node) configure() error {
	for link, addrs := range n.host.On {
		if err := n.addAddr(change{Link: link, Addr: addrs}); err != nil {
			return err
		}
	}
	if err := n.addGateways(); err != nil {
		return err
	}
	for _, r := range n.host.Routes {
		if err := n.addRoute(change{Route: r}); err != nil {
			return err
		}
	}
	for _, r := range n.host.Rules {
		if err := n.addRule(change{Rule: r}); err != nil {
			return err
		}
	}
	return n.guard()
}

// start runs the host's process on the given pipes.
func (n *node) start(in, out *os.File) (*exec.Cmd, error) {
	cmd := reexec(envKind+"="+kindHost, envName+"="+n.name, envRole+"="+n.host.Role)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, os.Stderr
	return cmd, n.in(cmd.Start)
}

// reexec returns a command that runs this binary again. If the binary does not call
// Enter, it finds no test to run. Under the race detector it exits without the usual
// second of sleep.
func reexec(env ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.Env = append(os.Environ(), "GORACE="+os.Getenv("GORACE")+" atexit_sleep_ms=0")
	cmd.Env = append(cmd.Env, env...)
	return cmd
}
