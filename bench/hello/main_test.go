//go:build linux

package main

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestMain makes the test binary play the roles of the program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "-role" {
		main()
	}
	os.Exit(m.Run())
}

// Everything is measured once and briefly. Each server must answer each request and
// hold the idle connections.
func TestCompare(t *testing.T) {
	if _, err := exec.LookPath("cc"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	if err := compare(200*time.Millisecond, 1, 8, []int{300}); err != nil {
		t.Error(err)
	}
}
