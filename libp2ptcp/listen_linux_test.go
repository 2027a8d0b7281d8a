package libp2ptcp_test

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestKeepAlive reads the timers of both ends from the kernel: 30 s, not Go's 15 s.
func TestKeepAlive(t *testing.T) {
	peerA, a := peerSetup{}.transport(t)
	raddr := listen(t, a, "/ip4/127.0.0.1/tcp/0")
	_, b := peerSetup{}.transport(t)
	c := tcpOf(t, t.Context(), b, raddr, peerA)
	for _, addr := range []string{c.LocalAddr().String(), c.RemoteAddr().String()} {
		eventually(t, "keep-alive timer at 30 s on "+addr, func() bool {
			hundredths := keepAliveTimer(t, addr)
			return hundredths > 2000 && hundredths <= 3000
		})
	}
}

// keepAliveTimer returns the time until the established connection with a local
// address sends its next keep-alive probe, in 1/100 s, or 0 if it has no such timer.
func keepAliveTimer(t testing.TB, addr string) int {
	t.Helper()
	f, err := os.Open("/proc/net/tcp")
	check(t, err)
	defer f.Close()
	var port int
	_, err = fmt.Sscanf(addr, "127.0.0.1:%d", &port)
	check(t, err)
	local := fmt.Sprintf("0100007F:%04X", port)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		field := strings.Fields(lines.Text())
		var kind, when int
		if len(field) < 6 || field[1] != local || field[3] != "01" {
			continue
		}
		_, err := fmt.Sscanf(field[5], "%02X:%08X", &kind, &when)
		check(t, err)
		if kind == 2 {
			return when
		}
	}
	return 0
}
