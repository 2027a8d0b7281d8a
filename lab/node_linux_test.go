package lab_test

import (
	"slices"
	"testing"

	"github.com/reusetransport/reuseport/lab"
)

// A host sees its own interfaces and no others.
func TestIsolation(t *testing.T) {
	t.Parallel()
	topo := one("plain")
	topo.Hosts["a"].On["wire"] = ""
	topo.Hosts["b"] = lab.Host{On: lab.On{"lan": "10.1.0.3/24"}, Role: "plain"}
	topo.Wires = lab.Wires{"wire": {}}
	n := lab.Start(t, topo)
	for host, want := range map[string][]string{"a": {"lan", "lo", "wire"}, "b": {"lan", "lo"}} {
		got, err := lab.Call[[]string](t.Context(), n, host, "interfaces", struct{}{})
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s has %v, %v, want %v", host, got, err, want)
		}
	}
}

func TestSysctl(t *testing.T) {
	t.Parallel()
	const name = "net.ipv4.tcp_timestamps"
	topo := one("plain")
	a := topo.Hosts["a"]
	a.Sysctls = map[string]string{name: "0"}
	topo.Hosts["a"] = a
	n := lab.Start(t, topo)
	if got, err := lab.Call[string](t.Context(), n, "a", "sysctl", name); err != nil || got != "0" {
		t.Errorf("%s is %q, %v, asked for 0", name, got, err)
	}
	if err := n.SetSysctl("a", name, "1"); err != nil {
		t.Fatal(err)
	}
	if got, err := lab.Call[string](t.Context(), n, "a", "sysctl", name); err != nil || got != "1" {
		t.Errorf("%s is %q, %v, set to 1", name, got, err)
	}
}
