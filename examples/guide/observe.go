package guide

import (
	"expvar"
	"io"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/promstats"
)

// newTransport returns a Transport that says why its dials did not reuse the port.
func newTransport(log io.Writer) *reuseport.Transport {
	return &reuseport.Transport{Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
}

// publish shows the numbers of t at /debug/vars, by the handler that package expvar registers.
func publish(name string, t *reuseport.Transport) {
	expvar.Publish(name, expvar.Func(func() any { return t.Stats() }))
}

// metrics returns a handler that shows the numbers of t to Prometheus.
func metrics(t *reuseport.Transport) (http.Handler, error) {
	registry := prometheus.NewRegistry()
	if _, err := promstats.Register(registry, t); err != nil {
		return nil, err
	}
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{}), nil
}
