package lab_test

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/reusetransport/reuseport/lab"
)

// Where namespaces are refused, a test is skipped with the reason, or fails if CI is
// set.
func TestRefused(t *testing.T) {
	t.Parallel()
	if os.Getenv(envMarker) != "" {
		refuseNamespaces(t)
		lab.Start(t, one("plain"))
		return
	}
	for ci, want := range map[string]string{"CI=": "--- SKIP: TestRefused", "CI=1": "--- FAIL: TestRefused"} {
		cmd := underTest("TestRefused", envMarker+"=1", ci)
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, syscall.EPERM) && os.Getenv("CI") == "" {
			t.Skip("user namespaces are refused:", err)
		}
		if !strings.Contains(string(out), want) || !strings.Contains(string(out), lab.ErrRefused.Error()) {
			t.Errorf("%s: %v, want %q and the reason in\n%s", ci, err, want, out)
		}
	}
}

// refuseNamespaces forbids new ones in the user namespace of this process.
func refuseNamespaces(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/user/max_net_namespaces", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
}
