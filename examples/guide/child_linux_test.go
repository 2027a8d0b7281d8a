package guide

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/cloudflare/tableflip"
	"golang.org/x/sys/unix"

	"github.com/reusetransport/reuseport"
)

// run starts this binary in a role, with a listener as descriptor 3 if l is not nil, and returns
// what it printed. dialVariable has the address that it dials.
func run(t *testing.T, role string, l *net.TCPListener) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// systemd sets LISTEN_PID to the process that it starts.
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", `LISTEN_FDS=1 LISTEN_PID=$$ exec "$0"`, os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+role, dialVariable+"="+listen(t).Addr().String())
	cmd.Stderr = os.Stderr
	if l != nil {
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.ExtraFiles = []*os.File{f}
	}
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%s: %v", role, err)
	}
	return string(out)
}

const dialVariable = "REUSEPORT_GUIDE_DIAL"

// TestActivated: a process that systemd starts dials from the port of the socket it gets.
func TestActivated(t *testing.T) {
	if got, want := run(t, "activated", listen(t).(*net.TCPListener)), "reused true, none\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func beActivated() error {
	var tr reuseport.Transport
	if _, err := wrapActivated(&tr); err != nil {
		return err
	}
	return sayPort(&tr, os.Getenv(dialVariable))
}

// TestUpgraded: a program and the version that replaces it both dial from the port, one after the
// other.
func TestUpgraded(t *testing.T) {
	if got, want := run(t, "upgraded", nil), "reused true, none\nreused true, none\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// beUpgraded listens and dials, and upgrades itself once.
func beUpgraded() error {
	up, err := tableflip.New(tableflip.Options{})
	if err != nil {
		return err
	}
	defer up.Stop()
	var tr reuseport.Transport
	if _, err := listenUpgradable(up, &tr, "127.0.0.1:0"); err != nil {
		return err
	}
	if err := sayPort(&tr, os.Getenv(dialVariable)); err != nil {
		return err
	}
	if err := up.Ready(); err != nil || up.HasParent() {
		return err
	}
	return up.Upgrade()
}

// TestGiveTo: the socket belongs to the other user then.
func TestGiveTo(t *testing.T) {
	if os.Geteuid() != 0 {
		skip(t, "needs root, to give a socket away")
	}
	l := listen(t).(*net.TCPListener)
	const nobody = 65534
	if err := giveTo(l, nobody); err != nil {
		t.Fatal(err)
	}
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var s syscall.Stat_t
	if err := raw.Control(func(fd uintptr) { err = syscall.Fstat(int(fd), &s) }); err != nil || s.Uid != nobody {
		t.Errorf("the owner is %d, %v", s.Uid, err)
	}
	l.Close()
	if err := giveTo(l, nobody); err == nil {
		t.Error("a closed socket was given away")
	}
}

// skip skips a test, which in CI is a failure.
func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// TestInNamespace: what f opens is in the other network namespace, and the caller stays in its own.
func TestInNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		skip(t, "needs root, for a network namespace")
	}
	home := namespaceHere(t)
	path, away := makeNamespace(t)
	var seen uint64
	err := inNamespace(path, func() error {
		seen = namespaceHere(t)
		var tr reuseport.Transport
		defer tr.Shutdown(t.Context())
		_, err := tr.ListenPort(4001)
		return err
	})
	if err != nil || seen != away || home == away || namespaceHere(t) != home {
		t.Errorf("%v; at home in %d, away in %d, seen %d", err, home, away, seen)
	}
	if err := inNamespace("/nowhere", func() error { return nil }); !os.IsNotExist(err) {
		t.Errorf("a namespace that does not exist: %v", err)
	}
}

// makeNamespace makes a network namespace, which lasts as long as the test.
func makeNamespace(t *testing.T) (path string, inode uint64) {
	t.Helper()
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	made := make(chan error)
	go inNamespace("/proc/self/ns/net", func() error {
		err := unix.Unshare(unix.CLONE_NEWNET)
		path, inode = fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), namespaceHere(t)
		made <- err
		<-over
		return nil
	})
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	return path, inode
}

// namespaceHere returns the network namespace of the calling thread.
func namespaceHere(t *testing.T) uint64 {
	t.Helper()
	link, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Error(err)
	}
	var inode uint64
	if _, err := fmt.Sscanf(strings.TrimPrefix(link, "net:"), "[%d]", &inode); err != nil {
		t.Error(err)
	}
	return inode
}
