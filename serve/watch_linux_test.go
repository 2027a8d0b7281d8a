package serve_test

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/serve"
)

// A woken handler may take its time to read. The set reports input once; unread input
// must not keep its goroutine busy.
func TestUnreadInputCostsNothing(t *testing.T) {
	const hold = time.Second
	woken := make(chan struct{})
	s := &serve.Server{ParkNew: true, Handler: func(c net.Conn) (serve.Handler, error) {
		close(woken)
		time.Sleep(hold)
		return echo(c)
	}}
	c := dial(t, running(t, s))
	eventually(t, "parked", func() bool { return s.Stats().Parked == 1 })
	before := cpuTime(t)
	ask(t, c)
	<-woken
	if used := cpuTime(t) - before; used > hold/10 {
		t.Errorf("%v of CPU time in %v", used, hold)
	}
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
