//go:build !plan9

package reuseport_test

import (
	"io"
	"testing"

	"github.com/reusetransport/reuseport"
)

// BenchmarkClose closes a reused connection with nothing outstanding, by Close and
// by Abort; what the peer reads is reported as the part that was EOF.
func BenchmarkClose(b *testing.B) {
	for name, close := range map[string]func(*reuseport.Conn) error{
		"Close":   (*reuseport.Conn).Close,
		"Abort":   (*reuseport.Conn).Abort,
		"TCPConn": func(c *reuseport.Conn) error { return c.TCPConn.Close() }, // SO_LINGER 0 and nothing else
	} {
		b.Run(name, func(b *testing.B) { benchmarkClose(b, close) })
	}
}

func benchmarkClose(b *testing.B, close func(*reuseport.Conn) error) {
	var tr reuseport.Transport
	listen(b, &tr, "/ip4/127.0.0.1/tcp/0")
	l := listen(b, &tr, "/ip4/127.0.0.1/tcp/0")
	var eof int
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		c := dialOnce(b, &tr, l.Multiaddr())
		in, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := close(c); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if _, err := in.Read(make([]byte, 1)); err == io.EOF {
			eof++
		}
		if err := in.(*reuseport.Conn).Abort(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(eof)/float64(b.N), "EOF")
}
