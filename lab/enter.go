package lab

import (
	"fmt"
	"os"
)

// Environment variables of the processes that the lab starts.
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
// In a process that the lab started it runs the host's role; otherwise it runs the
// tests. It does not return.
func Main(m interface{ Run() int }, roles Roles) {
	Enter(roles)
	os.Exit(m.Run())
}

// Enter runs the host's role in a process that the lab started, and then does not
// return. In any other process it does nothing. A command that builds networks calls
// it first in main.
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
	os.Stdout = os.Stderr // what the role prints must not mix with the replies
	fn, ok := roles[role]
	if !ok {
		return p.finish(fmt.Errorf("%w: host %s: no role %q was given to lab.Enter", ErrTopology, name, role))
	}
	return p.finish(fn(p))
}
