package guide

import (
	"context"
	"encoding/json"
	"errors"
	"expvar"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/reusetransport/reuseport"
)

// TestWrap: a wrapped listener accepts, and dials leave from its port.
func TestWrap(t *testing.T) {
	var tr reuseport.Transport
	mine := listen(t)
	l, err := wrap(&tr, mine)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, tellPeer)
	if got := get(t, newClient(&tr), "http://"+reflectHTTP(t)); got != mine.Addr().String() {
		t.Errorf("left from %s, listening on %v", got, mine.Addr())
	}
	get(t, http.DefaultClient, "http://"+mine.Addr().String())
}

// reflectHTTP starts a server that tells clients their address, and returns its own.
func reflectHTTP(t *testing.T) string {
	t.Helper()
	l := listen(t)
	serve(t, l, tellPeer)
	return l.Addr().String()
}

// get returns the body of an answer.
func get(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestPublicAddress: a reflector tells the address of the listening port, also when it is asked
// twice.
func TestPublicAddress(t *testing.T) {
	reflector := listen(t)
	go tellAddress(reflector)
	var tr reuseport.Transport
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := publicAddress(ctx, &tr, reflector.Addr().String()); !errors.Is(err, reuseport.ErrNoReuse) {
		t.Errorf("without a listener: %v, want ErrNoReuse", err)
	}
	l := listenFor(t, &tr)
	for range 2 {
		got, err := publicAddress(ctx, &tr, reflector.Addr().String())
		if err != nil || got != netip.MustParseAddrPort(l.Addr().String()) {
			t.Errorf("%v, %v, listening on %v", got, err, l.Addr())
		}
	}
}

// TestClients: of requests at one time all of a strict client's and one of the other's leave from
// the listening port, and all are answered.
func TestClients(t *testing.T) {
	for _, strict := range []bool{true, false} {
		var tr reuseport.Transport
		l := listenFor(t, &tr)
		client := newClient(&tr)
		if strict {
			client = newStrictClient(&tr)
		}
		to := "http://" + reflectHTTP(t)
		var together sync.WaitGroup
		fromPort, all := make(chan bool, 20), 0
		for range cap(fromPort) {
			together.Go(func() { fromPort <- get(t, client, to) == l.Addr().String() })
		}
		together.Wait()
		close(fromPort)
		for is := range fromPort {
			if is {
				all++
			}
		}
		if all == 0 || strict && all != cap(fromPort) {
			t.Errorf("strict %t: %d of %d requests left from the listening port", strict, all, cap(fromPort))
		}
		client.CloseIdleConnections()
	}
}

// TestShutdown: a request under way is answered to its end, and nothing listens or dials after.
func TestShutdown(t *testing.T) {
	var tr reuseport.Transport
	l := listenFor(t, &tr)
	begun, proceed := make(chan struct{}), make(chan struct{})
	const size = 1 << 20
	srv := serve(t, l, func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-proceed
		io.WriteString(w, strings.Repeat("x", size))
	})
	answer := make(chan string)
	go func() { answer <- get(t, new(http.Client), "http://"+l.Addr().String()) }()
	<-begun
	ended := make(chan error)
	go func() { ended <- shutdown(srv, &tr, patience) }()
	close(proceed)
	if got := <-answer; len(got) != size {
		t.Errorf("%d bytes arrived, want %d", len(got), size)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := tr.Net().Dial("tcp", "127.0.0.1:80"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a dial after shutdown: %v, want net.ErrClosed", err)
	}
}

// TestObserve: the log, expvar and Prometheus tell of a dial that did not reuse a port.
func TestObserve(t *testing.T) {
	var log strings.Builder
	tr := newTransport(&log)
	listenFor(t, tr)
	to := listen(t)
	for range 2 { // the second finds the 4-tuple taken
		c, err := tr.Net().Dial("tcp", to.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if !strings.Contains(log.String(), `cause="4-tuple in use"`) {
		t.Errorf("the log: %q", &log)
	}
	name := fmt.Sprintf("reuseport %p", tr) // expvar forgets no name
	publish(name, tr)
	var vars struct{ NewByCause map[string]int }
	if err := json.Unmarshal([]byte(expvar.Get(name).String()), &vars); err != nil || vars.NewByCause["4-tuple in use"] != 1 {
		t.Errorf("expvar: %+v, %v", vars, err)
	}
	handler, err := metrics(tr)
	if err != nil {
		t.Fatal(err)
	}
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if body := answer.Body.String(); !strings.Contains(body, `{cause="4-tuple in use"} 1`) {
		t.Errorf("Prometheus: %s", body)
	}
}
