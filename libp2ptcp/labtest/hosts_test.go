package labtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Operations of a host besides punching.

// to asks the host on Port to do something with other hosts.
type to struct {
	Port  uint16
	Peers []peer.AddrInfo
}

// connect connects to each peer in turn.
func (s *nodes) connect(ctx context.Context, in to) (struct{}, error) {
	n := s.get(in.Port)
	for _, p := range in.Peers {
		if err := n.Connect(ctx, p); err != nil {
			return struct{}{}, err
		}
	}
	return struct{}{}, nil
}

// addrs returns the public addresses that the host tells others.
func (s *nodes) addrs(_ context.Context, in wait) ([]string, error) {
	var public []string
	for _, a := range s.get(in.Port).Addrs() {
		if manet.IsPublicAddr(a) {
			public = append(public, a.String())
		}
	}
	return public, nil
}

// sees returns the address from which in.Peer is connected to the host.
func (s *nodes) sees(_ context.Context, in wait) (string, error) {
	conns := s.get(in.Port).Network().ConnsToPeer(in.Peer)
	if len(conns) != 1 {
		return "", errors.New("not one connection")
	}
	return conns[0].RemoteMultiaddr().String(), nil
}

// barrage asks for dials to the targets for a time.
type barrage struct {
	Port    uint16
	Targets []string // multiaddrs
	For     time.Duration
}

// dialMany dials each target again and again and returns the number of dials. Each
// dial is to a new peer, so that the host's back-off does not interfere.
func (s *nodes) dialMany(ctx context.Context, in barrage) (int64, error) {
	n := s.get(in.Port)
	var dials atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(in.For)
	for _, target := range in.Targets {
		addr, err := ma.NewMultiaddr(target)
		if err != nil {
			return 0, err
		}
		wg.Go(func() {
			for time.Now().Before(end) {
				n.dialStranger(ctx, addr)
				dials.Add(1)
				time.Sleep(50 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	return dials.Load(), nil
}

// dialStranger dials a peer that does not exist.
func (n *node) dialStranger(ctx context.Context, addr ma.Multiaddr) {
	id := newPeerID()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := n.Connect(ctx, peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{addr}}); err == nil {
		panic("connected to a peer that does not exist")
	}
	n.Network().(*swarm.Swarm).Backoff().Clear(id)
}

func newPeerID() peer.ID {
	_, pub, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		panic(err) // no random numbers
	}
	id, err := peer.IDFromPublicKey(pub)
	if err != nil {
		panic(err) // not an Ed25519 key
	}
	return id
}

// The protocol, the size and the last word of a farewell.
const (
	byeProtocol = "/bye"
	byeBytes    = 60_000 // what TCP accepts at once but does not send at once
	byeCode     = network.ConnErrorCode(0x1234)
)

// received is what the other host of a farewell got.
type received struct {
	Bytes  int64
	GoAway bool // the connection ended with byeCode
}

// receive waits for a stream and reads it to its end.
func (s *nodes) receive(ctx context.Context, in wait) (received, error) {
	n, done := s.get(in.Port), make(chan received, 1)
	n.SetStreamHandler(byeProtocol, func(str network.Stream) {
		r := received{}
		var err error
		r.Bytes, err = io.Copy(io.Discard, str)
		var end *network.ConnError
		r.GoAway = errors.As(err, &end) && end.Remote && end.ErrorCode == byeCode
		done <- r
	})
	ctx, cancel := context.WithTimeout(ctx, in.Limit)
	defer cancel()
	select {
	case r := <-done:
		return r, nil
	case <-ctx.Done():
		return received{}, ctx.Err()
	}
}

// awaitSendQueue waits until a connection from a local port has n bytes that the peer
// has not acknowledged.
func awaitSendQueue(port uint16, n int64) error {
	for range 2000 {
		table, err := os.ReadFile("/proc/self/net/tcp")
		if err != nil {
			return err
		}
		if sendQueue(string(table), port) >= n {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("port %d was not given %d bytes", port, n)
}

// sendQueue returns the longest send queue of the connections from port in
// /proc/net/tcp.
func sendQueue(table string, port uint16) (longest int64) {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 5 || !strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
			continue
		}
		tx, _, _ := strings.Cut(f[4], ":")
		if n, err := strconv.ParseInt(tx, 16, 64); err == nil {
			longest = max(longest, n)
		}
	}
	return longest
}

// farewell writes byeBytes to in.Peer, gives the reason and closes the host.
func (s *nodes) farewell(ctx context.Context, in wait) (struct{}, error) {
	n := s.get(in.Port)
	str, err := n.NewStream(ctx, in.Peer, byeProtocol)
	if err != nil {
		return struct{}{}, err
	}
	if _, err := str.Write(make([]byte, byeBytes)); err != nil {
		return struct{}{}, err
	}
	// yamux passes the bytes to TCP in the background, and drops what it still has
	// when it closes.
	if err := awaitSendQueue(in.Port, byeBytes); err != nil {
		return struct{}{}, err
	}
	if err := str.Conn().CloseWithError(byeCode); err != nil {
		return struct{}{}, err
	}
	return s.shut(ctx, in)
}
