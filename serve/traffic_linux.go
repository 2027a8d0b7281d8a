package serve

import (
	"time"

	"golang.org/x/sys/unix"
)

// traffic asks the kernel about c's socket. It is not ok if c hides its socket, and if
// that is not TCP or is multipath TCP, of which TCP_INFO shows one path only.
func (c *conn) traffic() (t traffic, ok bool) {
	raw := c.rawConn()
	if raw == nil {
		return traffic{}, false
	}
	err := raw.Control(func(fd uintptr) {
		t, ok = trafficOf(fd)
		t.input = hasInput(fd) // after counting: what comes in between is input
	})
	return t, ok && err == nil
}

func trafficOf(fd uintptr) (t traffic, ok bool) {
	protocol, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil || protocol != unix.IPPROTO_TCP {
		return traffic{}, false
	}
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil || info.Segs_in == 0 {
		return traffic{}, false // Linux before 4.2, which counts neither segments nor bytes
	}
	quiet := min(info.Last_data_recv, info.Last_data_sent)
	return traffic{received: info.Bytes_received, quiet: time.Duration(quiet) * time.Millisecond}, true
}
