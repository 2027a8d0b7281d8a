package lab

import (
	"fmt"
	"os"
)

// The environment of a process that the lab started.
const (
	envKind = "REUSEPORT_LAB_PROCESS" // kindKeeper or kindHost
	envName = "REUSEPORT_LAB_NAME"    // the host's name
	envRole = "REUSEPORT_LAB_ROLE"    // the host's role

	kindKeeper = "keeper"
	kindHost   = "host"
)

// Main is the TestMain of a test binary that builds networks:
//
//	func TestMain(m *testing.M) {
//		lab.Main(m, lab.Roles{"peer": peer})
//	}
//
// In a process that the lab started it runs the host's role, otherwise the
// tests. It does not return.
func Main(m interface{ Run() int }, roles Roles) {
	Enter(roles)
	os.Exit(m.Run())
}

// Enter turns a process that the lab started into its host, and does not
// return then. In any other process it does nothing. A command that builds
// networks calls it first thing in main.
func Enter(roles Roles) {
	switch os.Getenv(envKind) {
	case kindKeeper:
		os.Exit(exitCode(runKeeper()))
	case kindHost:
		os.Exit(exitCode(runHost(roles)))
	}
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func runHost(roles Roles) error {
	name, role := os.Getenv(envName), os.Getenv(envRole)
	p := newProcess(name, os.Stdin, os.Stdout)
	os.Stdout = os.Stderr // what the role prints is no reply
	fn, ok := roles[role]
	if !ok {
		return p.finish(fmt.Errorf("%w: host %s: no role %q was given to lab.Enter", ErrTopology, name, role))
	}
	return p.finish(fn(p))
}
