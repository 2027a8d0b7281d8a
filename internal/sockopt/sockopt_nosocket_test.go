//go:build (!unix && !windows) || aix

package sockopt_test

import (
	"errors"
	"testing"

	"github.com/reusetransport/reuseport/internal/sockopt"
)

func TestStubs(t *testing.T) {
	for name, call := range map[string]func() error{
		"SetReuse":        func() error { return sockopt.SetReuse("tcp4", "", nil) },
		"SetReuseToDial":  func() error { return sockopt.SetReuseToDial("tcp4", "", nil) },
		"SetReusePort":    func() error { return sockopt.SetReusePort(0, true) },
		"SetKeepAlive":    func() error { return sockopt.SetKeepAlive(0) },
		"SetLinger":       func() error { return sockopt.SetLinger(0, true) },
		"V6Only":          func() error { _, err := sockopt.V6Only(0); return err },
		"Unacked":         func() error { _, err := sockopt.Unacked(0); return err },
		"HasUnread":       func() error { _, err := sockopt.HasUnread(0); return err },
		"DescriptorLimit": func() error { _, err := sockopt.DescriptorLimit(); return err },
		"DropAll":         func() error { return sockopt.DropAll(0) },
		"SharesPort":      func() error { _, err := sockopt.SharesPort(0); return err },
		"BoundInterface":  func() error { _, err := sockopt.BoundInterface(0); return err },
		"BindToInterface": func() error { return sockopt.BindToInterface(0, 1) },
		"Owner":           func() error { _, err := sockopt.Owner(0); return err },
		"FINSent":         func() error { _, err := sockopt.FINSent(0); return err },
		"Discard":         func() error { _, err := sockopt.Discard(0, nil); return err },
		"ShutdownWrite":   func() error { return sockopt.ShutdownWrite(0) },
		"Local":           func() error { _, err := sockopt.Local(0); return err },
		"Peer":            func() error { _, err := sockopt.Peer(0); return err },
		"Dup":             func() error { _, err := sockopt.Dup(0); return err },
		"Close":           func() error { return sockopt.Close(0) },
		"LimitSYNs":       func() error { return sockopt.LimitSYNs(0) },
		"GiveToFirst":     func() error { return sockopt.GiveToFirst(0) },
		"BindOnce":        func() error { return sockopt.BindOnce(0) },
	} {
		if err := call(); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v, want ErrUnsupported", name, err)
		}
	}
	if err := sockopt.SetExclusive(0); err != nil {
		t.Errorf("SetExclusive: %v, want none", err)
	}
}
