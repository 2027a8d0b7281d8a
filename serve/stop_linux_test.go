package serve_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/serve"
)

// house is a server of ours or of net/http's, to be compared in one run.
type house struct {
	name     string
	addr     net.Addr
	trust    *tls.Config // nil without TLS
	shutdown func(context.Context) error
}

// guest is a client that has nothing to say when Shutdown begins.
type guest struct {
	name  string
	conn  net.Conn
	made  time.Time
	holds bool          // holds Shutdown until it is five seconds old
	ended time.Duration // from the start of Shutdown to EOF
	age   time.Duration // from made to EOF
}

// A client that has nothing to say holds Shutdown no longer than it holds net/http's: not
// at all once it has been served, and else until it is five seconds old.
func TestShutdownBesideNetHTTP(t *testing.T) {
	t.Parallel()
	houses := []house{
		theirs(t, false), ours(t, false, false), ours(t, false, true),
		theirs(t, true), ours(t, true, false), ours(t, true, true),
	}
	guests := make([][]*guest, len(houses))
	for i, h := range houses {
		guests[i] = h.invite(t, "old", false)
	}
	time.Sleep(6100 * time.Millisecond) // net/http counts whole seconds
	for i, h := range houses {
		guests[i] = append(guests[i], h.invite(t, "new", true)...)
		guests[i] = append(guests[i], h.serve(t))
	}
	var all sync.WaitGroup
	for i, h := range houses {
		all.Go(func() { h.close(t, guests[i]) })
	}
	all.Wait()
	for i, h := range houses {
		compare(t, h, guests[i], guests[i/3*3])
	}
}

// compare demands that no guest was kept longer than net/http keeps it.
func compare(t *testing.T, h house, guests, theirs []*guest) {
	t.Helper()
	for i, g := range guests {
		t.Logf("%s, %s: ended after %v, at the age of %v", h.name, g.name, g.ended, g.age)
		if g.holds && (g.age < 4*time.Second || g.age > theirs[i].age+time.Second) {
			t.Errorf("%s, %s: ended at the age of %v, with net/http of %v", h.name, g.name, g.age, theirs[i].age)
		}
		if !g.holds && g.ended > theirs[i].ended+time.Second {
			t.Errorf("%s, %s: ended after %v, with net/http after %v", h.name, g.name, g.ended, theirs[i].ended)
		}
	}
}

// invite makes a connection that says nothing, and behind TLS one that says nothing after
// its handshake too.
func (h house) invite(t *testing.T, name string, holds bool) []*guest {
	t.Helper()
	mute := []*guest{{name: name, made: time.Now(), conn: dialTo(t, h.addr), holds: holds}}
	if h.trust == nil {
		return mute
	}
	return append(mute, &guest{name: name + " with handshake", made: time.Now(), conn: dialTLS(t, h.addr, h.trust), holds: holds})
}

// serve makes a connection on which one request is answered.
func (h house) serve(t *testing.T) *guest {
	t.Helper()
	var c net.Conn
	if h.trust == nil {
		c = dialTo(t, h.addr)
	} else {
		c = dialTLS(t, h.addr, h.trust)
	}
	get(t, c)
	return &guest{name: "served", made: time.Now(), conn: c}
}

// close shuts the house down and notes when each guest was sent away.
func (h house) close(t *testing.T, guests []*guest) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var seen sync.WaitGroup
	start := time.Now()
	for _, g := range guests {
		seen.Go(func() {
			wantEOF(t, g.conn)
			g.ended, g.age = time.Since(start), time.Since(g.made)
		})
	}
	if err := h.shutdown(ctx); err != nil {
		t.Errorf("%s: Shutdown: %v", h.name, err)
	}
	seen.Wait()
}

func ours(t *testing.T, withTLS, parkNew bool) house {
	t.Helper()
	s := &serve.Server{Handler: answerOK, ParkNew: parkNew}
	h, l := newHouse(t, fmt.Sprintf("ours, ParkNew %v", parkNew), transportListener(t), withTLS)
	runningOn(t, s, l)
	h.shutdown = s.Shutdown
	return h
}

func theirs(t *testing.T, withTLS bool) house {
	t.Helper()
	s := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok") // the client finds out
	})}
	h, l := newHouse(t, "net/http", listen(t), withTLS)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), <-ended); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("net/http: %v", err)
		}
	})
	h.shutdown = s.Shutdown
	return h
}

func newHouse(t *testing.T, name string, l net.Listener, withTLS bool) (house, net.Listener) {
	t.Helper()
	h := house{name: name, addr: l.Addr()}
	if withTLS {
		var config *tls.Config
		config, h.trust = certificate(t)
		h.name += ", TLS"
		l = tls.NewListener(l, config)
	}
	return h, l
}

// begun starts a Shutdown and returns a function that waits for it.
func begun(t *testing.T, s *serve.Server) (wait func()) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		shutdown(t, s)
	}()
	<-s.Done()
	return func() { <-ended }
}

// Shutdown waits for a request that has begun, behind TLS as well: for the first of a
// connection and for a later one, though they come in pieces. Two calls wait as one does.
func TestShutdownWaitsForWorkTLS(t *testing.T) {
	s := &serve.Server{Handler: answerOK}
	dial := runningTLS(t, s)
	c, other := dial(), dial()
	get(t, c)
	write(t, c, request[:9])
	write(t, other, request[:9])
	time.Sleep(short) // until both have come
	wait, waitToo := begun(t, s), begun(t, s)
	for _, c := range []net.Conn{c, other} {
		for range 3 {
			time.Sleep(5 * short)
			write(t, c, "GET / HTTP/1.1\r\n")
		}
		get(t, c) // ends this request
		wantEOF(t, c)
	}
	wait()
	waitToo()
}

// A request that came together with the one before is in the buffer of the tls.Conn, so
// its handler seems to wait. It is answered all the same.
func TestShutdownAnswersReadAheadTLS(t *testing.T) {
	working, release := make(chan error, 1), make(chan struct{})
	s := new(serve.Server)
	s.Handler = func(c net.Conn) (serve.Handler, error) {
		var b [1]byte // leaves the next request where it is
		if _, err := c.Read(b[:]); errors.Is(err, io.EOF) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		if b[0] == '2' {
			working <- nil
			<-release
		}
		_, err := c.Write(b[:])
		return s.Handler, err
	}
	c := runningTLS(t, s)()
	write(t, c, "12")
	if err := receive(t, working); err != nil {
		t.Fatal(err)
	}
	wait := begun(t, s)
	time.Sleep(3 * short) // until Shutdown has taken it for waiting
	close(release)
	if got, err := io.ReadAll(c); err != nil || string(got) != "12" {
		t.Errorf("%q, %v", got, err)
	}
	wait()
}

// A client that is told something all the time is not idle, though it has said nothing
// yet. What it says at the end is read.
func TestShutdownSparesListeners(t *testing.T) {
	t.Parallel()
	confirmed := make(chan error, 1)
	s := &serve.Server{Handler: func(c net.Conn) (serve.Handler, error) {
		for range 7 {
			time.Sleep(time.Second)
			if _, err := io.WriteString(c, "more"); err != nil {
				return nil, err
			}
		}
		confirmed <- readUntil(c, "thanks")
		return nil, nil
	}}
	c := dial(t, running(t, s))
	eventually(t, "the handler runs", func() bool { return s.Stats().Active == 1 })
	wait := begun(t, s)
	if _, err := io.ReadFull(c, make([]byte, 7*len("more"))); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	write(t, c, "thanks")
	if err := receive(t, confirmed); err != nil {
		t.Errorf("the end was not read: %v", err)
	}
	wait()
}

// Close waits for no peer, not even for room for the alert that Close of a tls.Conn sends.
func TestCloseCutsTLS(t *testing.T) {
	full := make(chan error, 3)
	s := &serve.Server{Handler: func(c net.Conn) (serve.Handler, error) {
		full <- fill(c.(*tls.Conn))
		return nil, readUntil(c, "x")
	}}
	dial := runningTLS(t, s)
	for range cap(full) {
		dial()
	}
	for range cap(full) {
		if err := receive(t, full); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Write: %v, want os.ErrDeadlineExceeded", err)
		}
	}
	start := time.Now()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	shutdown(t, s)
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("Close and Shutdown took %v", took)
	}
}

// fill leaves no room in the send buffer of c. The client does not read.
func fill(c *tls.Conn) error {
	if err := c.Handshake(); err != nil {
		return err
	}
	var err error
	for n := 1; n > 0; {
		if err = c.SetWriteDeadline(time.Now().Add(2 * short)); err != nil {
			return err
		}
		n, err = c.NetConn().Write(make([]byte, 32<<20))
	}
	return errors.Join(err, c.SetWriteDeadline(time.Time{}))
}

// Behind TLS, Close aborts the connection below.
func TestCloseAbortsTLS(t *testing.T) {
	waits := make(chan error, 1)
	s := &serve.Server{Handler: func(c net.Conn) (serve.Handler, error) {
		waits <- c.(*tls.Conn).Handshake()
		return nil, readUntil(c, "x")
	}}
	l := transportListener(t)
	config, trust := certificate(t)
	runningOn(t, s, tls.NewListener(l, config))
	c := dialTLS(t, l.Addr(), trust)
	if err := receive(t, waits); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := readUntil(c, "x"); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want ECONNRESET", err)
	}
}

// transportListener is a listener of a reuseport.Transport. The server under test closes
// it.
func transportListener(t testing.TB) net.Listener {
	t.Helper()
	l, err := new(reuseport.Transport).Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		t.Fatal(err)
	}
	return manet.NetListener(l)
}
