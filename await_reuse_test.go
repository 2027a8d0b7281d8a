//go:build !plan9

package reuseport_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
)

// TestAwaitReuseHTTP: all requests of an HTTP client with a pool of one connection leave from the
// listening port, though the client closes the connection before in the background.
func TestAwaitReuseHTTP(t *testing.T) {
	linuxOnly(t)
	us, them := reuseport.Transport{PortUse: reuseport.AwaitReuse}, reuseport.Transport{}
	l := listen(t, &us, "/ip4/127.0.0.1/tcp/0")
	remote := listen(t, &them, "/ip4/127.0.0.1/tcp/0")
	seen := make(chan string, 1)
	srv := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { seen <- r.RemoteAddr })}
	go srv.Serve(manet.NetListener(remote))
	defer srv.Close()
	client := http.Client{
		Transport: &http.Transport{DialContext: us.DialNetContext, DisableKeepAlives: true, MaxConnsPerHost: 1},
		Timeout:   patience,
	}
	for i := range rounds(500, 50) {
		res, err := client.Get("http://" + remote.Addr().String())
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		res.Body.Close()
		if got := <-seen; got != l.Addr().String() {
			t.Fatalf("request %d came from %s, listening on %v", i, got, l.Addr())
		}
	}
}

// TestAwaitReuseHeld: while a connection holds the 4-tuple AwaitReuse waits, until the connection is
// closed or the context ends. Without a listener it does not wait.
func TestAwaitReuseHeld(t *testing.T) {
	linuxOnly(t)
	raddr := peer(t, "127.0.0.1:0")
	tr := reuseport.Transport{PortUse: reuseport.AwaitReuse}
	_, err := tr.Dial(raddr)
	wantErr(t, err, reuseport.ErrNoReuse)
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	holder := dial(t, &tr, raddr)
	start := time.Now()
	_, err = tr.DialContext(shortly(t, 100*time.Millisecond), raddr)
	wantErr(t, err, reuseport.ErrTupleInUse, context.DeadlineExceeded)
	if d := time.Since(start); d < 100*time.Millisecond || d > 5*time.Second {
		t.Errorf("waited %v", d)
	}
	closed := make(chan error)
	go func() {
		time.Sleep(50 * time.Millisecond)
		closed <- holder.Close()
	}()
	c, err := tr.DialContext(shortly(t, patience), raddr)
	if err != nil {
		t.Fatal(err)
	}
	abort(t, c.(*reuseport.Conn))
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if s := tr.Stats(); s.DialsFailed != 2 || s.DialsReused != 2 || s.DialsNew != 0 {
		t.Errorf("%+v", s)
	}
}
