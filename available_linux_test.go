package reuseport_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"

	"github.com/reusetransport/reuseport"
)

// TestAvailableAsksAgain: Available tries again after a try that found no descriptors, and
// keeps the result of one that did.
func TestAvailableAsksAgain(t *testing.T) {
	c := startChild(t, "probe")
	if got, want := c.receive(t), "without descriptors false, with true and 0 left open, without true"; got != want {
		t.Errorf("the child says %q, want %q", got, want)
	}
}

// childProbe calls Available, which no other test of this process must have done before, with
// and without descriptors.
func childProbe([]string) error {
	undo, err := limitDescriptors(0)
	if err != nil {
		return err
	}
	first := reuseport.Available()
	if err := undo(); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // the first use of package net opens some for good
	if err != nil {
		return err
	}
	if err := l.Close(); err != nil {
		return err
	}
	before := descriptors()
	second := reuseport.Available()
	left := descriptors() - before
	if _, err := limitDescriptors(0); err != nil {
		return err
	}
	fmt.Printf("without descriptors %t, with %t and %d left open, without %t\n", first, second, left, reuseport.Available())
	return nil
}

// TestAvailableWithoutLoopback: a try on a host whose loopback is down tells nothing about the
// system. Once it is up Available is true.
func TestAvailableWithoutLoopback(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.SysProcAttr = ownNetwork()
	c := startCommand(t, "bare", cmd)
	if got, want := c.receive(t), "loopback down false, up true"; got != want {
		t.Errorf("the child says %q, want %q", got, want)
	}
}

// childBare calls Available before and after loopback comes up.
func childBare([]string) error {
	first := reuseport.Available()
	if err := setLoopback([]byte{127, 0, 0, 1}); err != nil {
		return err
	}
	fmt.Printf("loopback down %t, up %t\n", first, reuseport.Available())
	return nil
}
