package libp2ptcp_test

import (
	"testing"

	ttransport "github.com/libp2p/go-libp2p/p2p/transport/testsuite"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/libp2ptcp"
)

// TestSuite runs go-libp2p's own suite for transports.
func TestSuite(t *testing.T) {
	for name, tt := range map[string]struct{ security, addr string }{
		"noise over IPv4": {"", "/ip4/127.0.0.1/tcp/0"},
		"tls over IPv6":   {"tls", "/ip6/::1/tcp/0"},
	} {
		t.Run(name, func(t *testing.T) {
			setup := peerSetup{security: tt.security}
			peerA, a := setup.transport(t, libp2ptcp.WithMetrics(prometheus.NewRegistry()))
			_, b := setup.transport(t)
			ttransport.SubtestTransport(t, a, b, tt.addr, peerA)
		})
	}
}

// TestSuiteFromListeningPort runs the suite with a dialer that also listens, so that
// its connections leave from one port.
func TestSuiteFromListeningPort(t *testing.T) {
	var r reuseport.Transport
	peerA, a := peerSetup{}.transport(t)
	_, b := peerSetup{}.transport(t, libp2ptcp.WithTransport(&r))
	listen(t, b, "/ip4/127.0.0.1/tcp/0")
	ttransport.SubtestTransport(t, a, b, "/ip4/127.0.0.1/tcp/0", peerA)
	if s := r.Stats(); s.DialsReused == 0 || s.DialsNew != 0 {
		t.Errorf("%d dials reused the port, %d did not", s.DialsReused, s.DialsNew)
	}
}
