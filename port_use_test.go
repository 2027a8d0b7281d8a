//go:build !plan9

package reuseport_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/reusetransport/reuseport"
)

// TestPortUse: each policy, on the Transport and for one dial.
func TestPortUse(t *testing.T) {
	for _, laddr := range []string{"/ip4/127.0.0.1/tcp/0", "/ip4/0.0.0.0/tcp/0"} {
		tr := reuseport.Transport{PortUse: reuseport.RequireReuse}
		raddr := peer(t, "127.0.0.1:0")
		_, err := tr.Dial(raddr)
		wantErr(t, err, reuseport.ErrNoReuse)
		l := listen(t, &tr, laddr)
		if c := dial(t, &tr, raddr); !c.Reused() || c.Cause() != reuseport.NoCause {
			t.Errorf("reused %t: %v", c.Reused(), c.Cause())
		}
		_, err = tr.Dial(raddr)
		wantErr(t, err, reuseport.ErrTupleInUse)
		_, err = tr.Dial(l.Multiaddr())
		wantErr(t, err, reuseport.ErrNoReuse)
		ctx := reuseport.WithPortUse(t.Context(), reuseport.NewPort)
		c, err := tr.DialContext(ctx, raddr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if rc := c.(*reuseport.Conn); rc.Reused() || rc.Cause() != reuseport.ByPolicy {
			t.Errorf("NewPort: reused %t: %v", rc.Reused(), rc.Cause())
		}
		for _, bad := range []reuseport.PortUse{-1, 7} {
			_, err = tr.DialContext(reuseport.WithPortUse(ctx, bad), raddr)
			wantErr(t, err, reuseport.ErrBadPortUse)
		}
	}
}

// TestPortUseOf: PreferReuse in a context is not the same as no policy in it.
func TestPortUseOf(t *testing.T) {
	if use, ok := reuseport.PortUseOf(context.Background()); ok {
		t.Errorf("%v in a context that has none", use)
	}
	ctx := reuseport.WithPortUse(context.Background(), reuseport.PreferReuse)
	if use, ok := reuseport.PortUseOf(ctx); use != reuseport.PreferReuse || !ok {
		t.Errorf("%v, %t; want PreferReuse, true", use, ok)
	}
}

// TestRequireReuseSendsNothing: a dial that RequireReuse lets fail makes no socket without a
// listener, and one that is not connected where the 4-tuple is taken.
func TestRequireReuseSendsNothing(t *testing.T) {
	var n atomic.Int32
	tr := reuseport.Transport{PortUse: reuseport.RequireReuse, Control: attempts(&n)}
	raddr := peer(t, "127.0.0.1:0")
	if _, err := tr.Dial(raddr); !errors.Is(err, reuseport.ErrNoReuse) || n.Load() != 0 {
		t.Errorf("no listener: %v after %d attempts", err, n.Load())
	}
	listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	dial(t, &tr, raddr)
	n.Store(0)
	if _, err := tr.Dial(raddr); !errors.Is(err, reuseport.ErrTupleInUse) || n.Load() != 1 {
		t.Errorf("4-tuple taken: %v after %d attempts", err, n.Load())
	}
}

func TestPortUseString(t *testing.T) {
	for use, want := range map[reuseport.PortUse]string{
		reuseport.PreferReuse: "PreferReuse", reuseport.NewPort: "NewPort", reuseport.RequireReuse: "RequireReuse", reuseport.AwaitReuse: "AwaitReuse", 7: "PortUse(7)",
	} {
		if got := use.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
