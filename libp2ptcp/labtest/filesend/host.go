package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/reusetransport/reuseport/libp2ptcp"
)

// protocolID names the transfer: the bytes one way, their SHA-256 the other.
const protocolID = "/filesend/1.0.0"

// newRelay makes a host that relays for others without limits.
func newRelay(listen string) (host.Host, error) {
	return libp2p.New(
		libp2p.Transport(libp2ptcp.New),
		libp2p.ListenAddrStrings(listen),
		libp2p.ForceReachabilityPublic(),
		libp2p.EnableRelayService(relay.WithInfiniteLimits()),
	)
}

// newHost makes a host that punches holes.
func newHost(listen string) (host.Host, error) {
	return libp2p.New(
		libp2p.Transport(libp2ptcp.New),
		libp2p.ListenAddrStrings(listen),
		libp2p.EnableHolePunching(),
	)
}

// reserve makes h reachable through r and waits until h has learned its public
// address from r. Only then can others punch a hole to it.
func reserve(ctx context.Context, h host.Host, r peer.AddrInfo) error {
	if err := h.Connect(ctx, r); err != nil {
		return err
	}
	if _, err := client.Reserve(ctx, h, r); err != nil {
		return err
	}
	for !slices.Contains(h.Mux().Protocols(), holepunch.Protocol) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("no public address seen: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// meet connects h to p through the relay r, then waits for a direct connection for as
// long as go-libp2p may try to punch one. Without one it returns nil, and the relay
// carries on.
func meet(ctx context.Context, h host.Host, r peer.AddrInfo, p peer.ID) (direct network.Conn, err error) {
	through, err := ma.NewMultiaddr(fmt.Sprintf("%s/p2p/%s/p2p-circuit", r.Addrs[0], r.ID))
	if err != nil {
		return nil, err
	}
	if err := h.Connect(ctx, peer.AddrInfo{ID: p, Addrs: []ma.Multiaddr{through}}); err != nil {
		return nil, err
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && ctx.Err() == nil; {
		for _, c := range h.Network().ConnsToPeer(p) {
			if _, err := c.RemoteMultiaddr().ValueForProtocol(ma.P_CIRCUIT); err != nil {
				return c, nil
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil, ctx.Err()
}

// send sends the contents of r to p over the best connection, adds to sent, and
// returns when p has confirmed the hash.
func send(ctx context.Context, h host.Host, p peer.ID, r io.Reader, sent *atomic.Int64) (hash string, err error) {
	s, err := h.NewStream(network.WithAllowLimitedConn(ctx, "filesend"), p, protocolID)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(s, sum, counter{sent}), r); err != nil {
		return "", errors.Join(err, s.Reset())
	}
	if err := s.CloseWrite(); err != nil {
		return "", err
	}
	theirs, err := io.ReadAll(io.LimitReader(s, sha256.Size))
	if err != nil {
		return "", err
	}
	if got, want := hex.EncodeToString(theirs), hex.EncodeToString(sum.Sum(nil)); got != want {
		return "", fmt.Errorf("the other side has %s, sent was %s", got, want)
	}
	return hex.EncodeToString(theirs), s.Close()
}

// receive accepts transfers, writes them to w and confirms them.
func receive(h host.Host, w io.Writer) {
	h.SetStreamHandler(protocolID, func(s network.Stream) {
		sum := sha256.New()
		_, err := io.Copy(io.MultiWriter(w, sum), s)
		if err == nil {
			_, err = s.Write(sum.Sum(nil))
		}
		if err = errors.Join(err, s.Close()); err != nil {
			_ = s.Reset() // the sender notices that the hash is missing
		}
	})
}

// counter counts what is written to it.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}
