package reuseport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/reusetransport/reuseport"
)

// TestForeignOwner: a process that drops root dials from the port of a listener that it made as root
// only if it gave the socket to its new user before. Giving away a Multipath TCP socket is of no
// use, because the TCP socket beneath keeps its owner.
func TestForeignOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		skip(t, "needs root, to drop it")
	}
	for _, multipath := range []string{"false", "true"} {
		for _, made := range []string{"wrapped before the drop", "wrapped after the drop", "listened before the drop"} {
			if made == "listened before the drop" && multipath == "true" {
				continue
			}
			for chown, want := range map[string]string{
				"false": "reused false, cause foreign owner, required: no reuse true, 1 warnings",
				"true":  "reused true, cause none, required: no reuse false, 0 warnings",
			} {
				if multipath == "true" && chown == "true" {
					want = "reused false, cause bind conflict, required: no reuse true, 0 warnings"
				}
				if got := startChild(t, "drop", multipath, made, chown).receive(t); got != want {
					t.Errorf("multipath %s, %s, fchown %s: %s; want %s", multipath, made, chown, got, want)
				}
			}
		}
	}
}

const nobody = 65534

// childDrop listens as root, drops root, dials, and says what came of it. Its arguments are whether
// to listen by Multipath TCP, how and when the Transport gets the listener, and whether to give it
// to the new user.
func childDrop(args []string) error {
	multipath, made, chown := args[0] == "true", args[1], args[2] == "true"
	peer, err := net.Listen("tcp4", "127.0.0.1:0") // nobody accepts
	if err != nil {
		return err
	}
	defer peer.Close()
	var log bytes.Buffer
	tr := reuseport.Transport{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	l, err := listenFor(&tr, multipath, made)
	if err != nil {
		return err
	}
	if chown {
		if err := withFD(rawOf(l), func(fd int) error { return syscall.Fchown(fd, nobody, nobody) }); err != nil {
			return err
		}
	}
	wrap := func() error { _, err := tr.WrapListener(l.(*net.TCPListener)); return err }
	if made == "wrapped before the drop" {
		err = wrap()
	}
	if err = errors.Join(err, syscall.Setuid(nobody)); err != nil {
		return err
	}
	if made == "wrapped after the drop" {
		if err := wrap(); err != nil {
			return err
		}
	}
	return sayOwned(&tr, peer.Addr().String(), &log)
}

// listenFor makes a listener: by tr, or by package net for tr to wrap.
func listenFor(tr *reuseport.Transport, multipath bool, made string) (syscall.Conn, error) {
	if made == "listened before the drop" {
		l, err := tr.ListenPort(0)
		if err != nil {
			return nil, err
		}
		return l.(syscall.Conn), nil
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(multipath)
	l, err := lc.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

func rawOf(c syscall.Conn) syscall.RawConn {
	raw, err := c.SyscallConn()
	if err != nil {
		panic(err) // of an open listener
	}
	return raw
}

// sayOwned dials twice and says from where.
func sayOwned(tr *reuseport.Transport, address string, log *bytes.Buffer) error {
	c, err := tr.DialNetContext(context.Background(), "tcp4", address)
	if err != nil {
		return err
	}
	conn := c.(*reuseport.Conn)
	reused, cause := conn.Reused(), conn.Cause()
	if err := conn.Abort(); err != nil {
		return err
	}
	_, err = tr.DialNetContext(reuseport.WithPortUse(context.Background(), reuseport.RequireReuse), "tcp4", address)
	fmt.Printf("reused %v, cause %v, required: no reuse %v, %d warnings\n",
		reused, cause, errors.Is(err, reuseport.ErrNoReuse), strings.Count(log.String(), "belongs to another user"))
	return nil
}
