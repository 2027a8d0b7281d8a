package lab_test

import (
	"errors"
	"testing"

	"github.com/reusetransport/reuseport/lab"
)

func TestBadTopology(t *testing.T) {
	t.Parallel()
	for name, topo := range map[string]lab.Topology{
		"address":         {Hosts: lab.Hosts{"a": {On: lab.On{"lan": "10.1.0.256/24"}}}},
		"no prefix":       {Hosts: lab.Hosts{"a": {On: lab.On{"lan": "10.1.0.1"}}}},
		"gateway":         {Hosts: lab.Hosts{"a": {Via: "router"}}},
		"link name":       {Hosts: lab.Hosts{"a": {On: lab.On{"a-name-too-long-for-linux": ""}}}},
		"loopback":        {Hosts: lab.Hosts{"a": {On: lab.On{"lo": "127.0.0.2/8"}}}},
		"three ends":      {Hosts: lab.Hosts{"a": {On: lab.On{"l": ""}}, "b": {On: lab.On{"l": ""}}, "c": {On: lab.On{"l": ""}}}},
		"no outside":      {Hosts: lab.Hosts{"a": {NAT: &lab.NAT{Outside: "wire"}}}},
		"NAT + firewall":  {Hosts: lab.Hosts{"a": {On: lab.On{"l": ""}, NAT: &lab.NAT{Outside: "l"}, Firewall: &lab.Firewall{Outside: "l"}}}},
		"mapping":         {Hosts: lab.Hosts{"a": {On: lab.On{"l": ""}, NAT: &lab.NAT{Outside: "l", Mapping: 3}}}},
		"filtering":       {Hosts: lab.Hosts{"a": {On: lab.On{"l": ""}, NAT: &lab.NAT{Outside: "l", Filtering: -1}}}},
		"unsolicited":     {Hosts: lab.Hosts{"a": {On: lab.On{"l": ""}, Firewall: &lab.Firewall{Outside: "l", Unsolicited: 2}}}},
		"loss":            {Wires: lab.Wires{"w": {Loss: 1.5}}},
		"match":           {Wires: lab.Wires{"w": {Drop: []lab.Match{{Dst: "10.0.0.0/33"}}}}},
		"route":           {Hosts: lab.Hosts{"a": {Routes: []lab.Route{{To: "everywhere"}}}}},
		"route's gateway": {Hosts: lab.Hosts{"a": {Routes: []lab.Route{{To: "default", Via: "router"}}}}},
		"rule":            {Hosts: lab.Hosts{"a": {Rules: []lab.Rule{{To: "nowhere", Table: 1}}}}},
		"rule's table":    {Hosts: lab.Hosts{"a": {Rules: []lab.Rule{{Proto: "tcp"}}}}},
		"rule's protocol": {Hosts: lab.Hosts{"a": {Rules: []lab.Rule{{Proto: "sctp", Table: 1}}}}},
		"sysctl":          {Hosts: lab.Hosts{"a": {Sysctls: map[string]string{"kernel.hostname": "x"}}}},
		"role":            one("nobody"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := build(t, topo); !errors.Is(err, lab.ErrTopology) {
				t.Errorf("got %v, want ErrTopology", err)
			}
		})
	}
}
