//go:build !plan9

package reuseport_test

import (
	"errors"
	"io"
	"math"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/reusetransport/reuseport"
)

// closeSizes are how much is written before Close.
var closeSizes = map[string]int{"nothing": 0, "1 B": 1, "100 kB": 100_000, "2 MB": 2_000_000, "64 MB": 64_000_000}

// TestCloseDelivers: the peer reads all that was written before Close, and then EOF, whichever
// side closes and however slow the reader is.
func TestCloseDelivers(t *testing.T) {
	for name, size := range closeSizes {
		for _, slow := range []time.Duration{0, 200 * time.Millisecond} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p := newClosePair(t, 0)
				data := pattern(size)
				done := writeThenClose(t, p.dialed, data)
				wantDataThenEOF(t, slowly(p.accepted, size, slow), data)
				<-done
				p.accepted.Close()
				wantDelivered(t, &p.dialer)
				p.connect(t)
				done = writeThenClose(t, p.accepted, data)
				wantDataThenEOF(t, slowly(p.dialed, size, slow), data)
				<-done
				p.dialed.Close()
				wantDelivered(t, &p.acceptor)
			})
		}
	}
}

// TestCloseDeliversUnread: Close delivers also with inbound data unread, where the kernel's own
// close resets.
func TestCloseDeliversUnread(t *testing.T) {
	for name, size := range closeSizes {
		t.Run(name, func(t *testing.T) {
			p := newClosePair(t, 0)
			if _, err := p.accepted.Write(pattern(50_000)); err != nil {
				t.Fatal(err)
			}
			done := writeThenClose(t, p.dialed, pattern(size))
			wantDataThenEOF(t, p.accepted, pattern(size))
			<-done
			if err := p.accepted.Close(); err != nil {
				t.Error(err)
			}
			wantDelivered(t, &p.dialer)
		})
	}
}

// TestCloseDeliversBoth: both sides close at the same time, each with data on its way. Nobody
// reads it, and all of it is acknowledged.
func TestCloseDeliversBoth(t *testing.T) {
	for name, size := range closeSizes {
		t.Run(name, func(t *testing.T) {
			p := newClosePair(t, 0)
			if size > 2_000_000 {
				size = 2_000_000 // more does not fit into the buffers, and nobody reads
			}
			for _, c := range []*reuseport.Conn{p.dialed, p.accepted} {
				bufferAll(t, c, size)
			}
			if err := errors.Join(p.dialed.Close(), p.accepted.Close()); err != nil {
				t.Error(err)
			}
			wantDelivered(t, &p.dialer)
			wantDelivered(t, &p.acceptor)
		})
	}
}

// TestCloseNegativeFlushTimeout: without delivery data is lost, which shows that the other tests
// can fail.
func TestCloseNegativeFlushTimeout(t *testing.T) {
	t.Parallel()
	p := newClosePair(t, -1)
	bufferAll(t, p.dialed, 2<<20)
	if err := p.dialed.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(p.accepted)
	wantErr(t, err, syscall.ECONNRESET)
	if len(got) >= 2<<20 {
		t.Error("nothing was lost")
	}
	if n := p.dialer.Stats().ClosesPending; n != 0 {
		t.Errorf("%d pending", n)
	}
}

// TestCloseSetLinger: no value of SetLinger turns delivery off, nor does the 0 of go-libp2p.
func TestCloseSetLinger(t *testing.T) {
	for _, sec := range []int{-1, 0, 3} {
		p := newClosePair(t, 0)
		if err := p.accepted.SetLinger(sec); err != nil {
			t.Fatal(err)
		}
		done := writeThenClose(t, p.accepted, pattern(4<<20))
		wantDataThenEOF(t, p.dialed, pattern(4<<20))
		<-done
		p.dialed.Close()
		wantDelivered(t, &p.acceptor)
	}
}

// TestCloseAfterHalfClose: nothing is lost if CloseWrite, CloseRead or both come before Close.
func TestCloseAfterHalfClose(t *testing.T) {
	for _, half := range []struct{ read, write bool }{{false, true}, {true, false}, {true, true}} {
		p := newClosePair(t, 0)
		wrote := make(chan struct{})
		go func() {
			defer close(wrote)
			_, err := p.dialed.Write(pattern(4 << 20))
			if half.read {
				err = errors.Join(err, p.dialed.CloseRead())
			}
			if half.write {
				err = errors.Join(err, p.dialed.CloseWrite())
			}
			if err := errors.Join(err, p.dialed.Close()); err != nil {
				t.Error(err)
			}
		}()
		wantDataThenEOF(t, p.accepted, pattern(4<<20))
		<-wrote
		p.accepted.Close()
		wantDelivered(t, &p.dialer)
	}
}

// TestClosePastDeadline: Close delivers although the connection's deadline has passed.
func TestClosePastDeadline(t *testing.T) {
	t.Parallel()
	p := newClosePair(t, 0)
	bufferAll(t, p.dialed, 1<<20)
	if err := p.dialed.SetDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := p.dialed.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(p.accepted); err != nil {
		t.Error(err)
	}
	wantDelivered(t, &p.dialer)
}

// TestCloseReadFrom: a file that ReadFrom sent (by sendfile on Linux) right before Close arrives.
func TestCloseReadFrom(t *testing.T) {
	name := t.TempDir() + "/file"
	if err := os.WriteFile(name, pattern(8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := newClosePair(t, 0)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, err := io.Copy(p.dialed, f)
		if err := errors.Join(err, p.dialed.Close()); err != nil {
			t.Error(err)
		}
	}()
	wantDataThenEOF(t, p.accepted, pattern(8<<20))
	<-sent
	p.accepted.Close()
	wantDelivered(t, &p.dialer)
}

// TestCloseLeftAtFlushTimeout: a peer that does not read is left to the system after
// FlushTimeout, and counted. When it reads, it gets everything and EOF.
func TestCloseLeftAtFlushTimeout(t *testing.T) {
	t.Parallel()
	p := newClosePair(t, 300*time.Millisecond)
	size := bufferAll(t, p.dialed, 64<<20)
	start := time.Now()
	if err := p.dialed.Close(); err != nil || time.Since(start) > time.Second {
		t.Fatalf("Close took %v: %v", time.Since(start), err)
	}
	if n := p.dialer.Stats().ClosesPending; n != 1 {
		t.Errorf("%d pending", n)
	}
	awaitCloses(t, &p.dialer)
	if d := time.Since(start); d < 300*time.Millisecond || d > 10*time.Second {
		t.Errorf("left after %v", d)
	}
	if s := p.dialer.Stats(); s.ClosesAborted != 1 || s.ClosesReset != 0 || s.BytesUndelivered == 0 {
		t.Errorf("counted %+v", s)
	}
	if n, err := io.Copy(io.Discard, p.accepted); n != int64(size) || err != nil {
		t.Errorf("the peer read %d of %d bytes, then %v", n, size, err)
	}
}

// TestClosePeerResets: a close that the peer's reset ends is counted, with what is lost.
func TestClosePeerResets(t *testing.T) {
	t.Parallel()
	for _, before := range []bool{true, false} {
		p := newClosePair(t, 0)
		bufferAll(t, p.dialed, 64<<20)
		first, second := p.dialed.Close, p.accepted.Abort
		if before {
			first, second = second, first
		}
		if err := errors.Join(first(), second()); err != nil {
			t.Fatal(err)
		}
		awaitCloses(t, &p.dialer)
		if s := p.dialer.Stats(); s.ClosesAborted != 0 || s.ClosesReset != 1 || s.BytesUndelivered == 0 {
			t.Errorf("peer first: %v: counted %+v", before, s)
		}
	}
}

// TestCloseFlushTimeoutForEver: with the greatest FlushTimeout Close waits for ever, and does
// not give up at once.
func TestCloseFlushTimeoutForEver(t *testing.T) {
	t.Parallel()
	p := newClosePair(t, math.MaxInt64)
	done := writeThenClose(t, p.dialed, pattern(4<<20))
	time.Sleep(100 * time.Millisecond) // until the buffers are full
	wantDataThenEOF(t, p.accepted, pattern(4<<20))
	<-done
	p.accepted.Close()
	wantDelivered(t, &p.dialer)
}

// TestCloseThenExit: what a process wrote arrives although it ends right after Close.
func TestCloseThenExit(t *testing.T) {
	t.Parallel()
	var tr reuseport.Transport
	l := listen(t, &tr, "/ip4/127.0.0.1/tcp/0")
	startChild(t, "close", l.Multiaddr().String(), "2000000")
	c := accept(t, l)
	time.Sleep(200 * time.Millisecond) // the child is gone by now
	n, err := io.Copy(io.Discard, c)
	if err != nil || n < 100_000 {
		t.Fatalf("%d bytes, then %v", n, err)
	}
}

// childClose dials, writes as much as the buffers take, closes and ends.
func childClose(args []string) error {
	var tr reuseport.Transport
	if _, err := tr.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0")); err != nil {
		return err
	}
	c, err := tr.Dial(ma.StringCast(args[0]))
	if err != nil {
		return err
	}
	if !c.(*reuseport.Conn).Reused() {
		return errors.New("not reused")
	}
	size, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	if err := c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		return err
	}
	if _, err := c.Write(pattern(size)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return c.Close()
}
