package foreign_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/reusetransport/reuseport"
	"github.com/reusetransport/reuseport/lab"
)

// host runs programs, serves and dials.
type host struct {
	ctx context.Context
	tr  reuseport.Transport

	ports    atomic.Int32 // that freePort has given
	mu       sync.Mutex
	programs []*running
	gates    map[string]*gate          // of the services that wait for a word
	idle     map[string]net.Listener   // that nobody accepts from
	dialsAt  map[string]manet.Listener // whose ports the transport dials from
}

func hostRole(p *lab.Process) error {
	h := &host{
		ctx: p.Context(), gates: map[string]*gate{},
		idle: map[string]net.Listener{}, dialsAt: map[string]manet.Listener{},
	}
	lab.Handle(p, "run", h.run)
	lab.Handle(p, "start", h.start)
	lab.Handle(p, "finish", h.finish)
	lab.Handle(p, "port", h.freePort)
	lab.Handle(p, "serve", h.serve)
	lab.Handle(p, "open", h.open)
	lab.Handle(p, "send", h.send)
	lab.Handle(p, "fetch", h.fetch)
	lab.Handle(p, "exits", h.exits)
	lab.Handle(p, "queue", h.queue)
	lab.Handle(p, "hand", h.hand)
	return p.Serve()
}

func (h *host) run(ctx context.Context, c command) (outcome, error) {
	r, err := launch(ctx, c)
	if err != nil {
		return outcome{}, err
	}
	return r.wait(), nil
}

func (h *host) start(ctx context.Context, c command) (int, error) {
	r, err := launch(ctx, c)
	if err != nil {
		return 0, err
	}
	if err := awaitListening(c.Port, 0); err != nil {
		r.cancel()
		return 0, fmt.Errorf("%w: %s", err, r.wait().Err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.programs = append(h.programs, r)
	return len(h.programs) - 1, nil
}

func (h *host) finish(_ context.Context, id int) (outcome, error) {
	h.mu.Lock()
	r := h.programs[id]
	h.mu.Unlock()
	return r.wait(), nil
}

// freePort returns a port that no other call returned, below those that connections get.
func (h *host) freePort(context.Context, struct{}) (int, error) {
	return 20000 + int(h.ports.Add(1)), nil
}

// listen listens on a free port.
func (h *host) listen(k stack, at string) (net.Listener, error) {
	return listenOver(&h.tr, k, at)
}

func listenOver(tr *reuseport.Transport, k stack, at string) (net.Listener, error) {
	if k == packageNet {
		return net.Listen("tcp", net.JoinHostPort(at, "0"))
	}
	l, err := tr.Listen(ma.StringCast("/ip4/" + at + "/tcp/0"))
	if err != nil {
		return nil, err
	}
	return manetListener{l}, nil
}

// manetListener is a listener of the transport as package net has them.
type manetListener struct{ manet.Listener }

func (l manetListener) Accept() (net.Conn, error) { return l.Listener.Accept() }

// File is the transport's File.
func (l manetListener) File() (*os.File, error) {
	return l.Listener.(interface{ File() (*os.File, error) }).File()
}

// sending asks for a connection that sends and closes.
type sending struct {
	Stack    stack
	From, To string // From without a port
	Size     int
}

func (h *host) send(ctx context.Context, s sending) (struct{}, error) {
	c, err := h.dial(ctx, s.Stack, s.From, s.To)
	if err != nil {
		return struct{}{}, err
	}
	_, err = c.Write(payload(s.Size))
	return struct{}{}, errors.Join(err, c.Close())
}

// dial dials, the transport from a port that it listens on.
func (h *host) dial(ctx context.Context, k stack, from, to string) (net.Conn, error) {
	if k == packageNet {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", to)
	}
	if err := h.listenToDial(from); err != nil {
		return nil, err
	}
	c, err := h.tr.DialNetContext(ctx, "tcp", to)
	if err != nil {
		return nil, err
	}
	if c := c.(*reuseport.Conn); !c.Reused() {
		return nil, fmt.Errorf("not from a listening port: %v", c.Cause())
	}
	return c, nil
}

// listenToDial listens on an address unless it does already.
func (h *host) listenToDial(at string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dialsAt[at] != nil {
		return nil
	}
	l, err := h.tr.Listen(ma.StringCast("/ip4/" + at + "/tcp/0"))
	if err != nil {
		return err
	}
	h.dialsAt[at] = l
	return nil
}

// fetching asks for answers over HTTP.
type fetching struct {
	Stack stack
	From  string
	URL   string
	Size  int
	Times int
	Close bool // each over a connection of its own
}

// fetch returns how many answers were whole.
func (h *host) fetch(ctx context.Context, f fetching) (int, error) {
	rt := &http.Transport{DisableKeepAlives: f.Close, DialContext: (&net.Dialer{}).DialContext}
	if f.Stack == transport {
		if err := h.listenToDial(f.From); err != nil {
			return 0, err
		}
		rt.DialContext = h.tr.DialNetContext
	}
	defer rt.CloseIdleConnections()
	client := &http.Client{Transport: rt, Timeout: limit}
	whole := 0
	for range f.Times {
		if err := get(ctx, client, f.URL, payload(f.Size)); err != nil {
			return whole, err
		}
		whole++
	}
	return whole, nil
}

func get(ctx context.Context, client *http.Client, url string, want []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || !bytes.Equal(body, want) {
		return fmt.Errorf("%s, %d of %d bytes", resp.Status, len(body), len(want))
	}
	return nil
}
