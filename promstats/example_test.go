package promstats_test

import (
	"expvar"
	"log"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/promstats"
)

func Example() {
	var t reuseport.Transport
	if _, err := promstats.Register(prometheus.DefaultRegisterer, &t); err != nil {
		log.Fatal(err)
	}
	// Output:
}

func Example_several() {
	var front, back reuseport.Transport
	reg := prometheus.NewRegistry()
	for name, t := range map[string]*reuseport.Transport{"front": &front, "back": &back} {
		labeled := prometheus.WrapRegistererWith(prometheus.Labels{"transport": name}, reg)
		if _, err := promstats.Register(labeled, t); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
}

func Example_expvar() {
	var t reuseport.Transport
	expvar.Publish("reuseport", expvar.Func(func() any { return t.Stats() }))
	// Output:
}
