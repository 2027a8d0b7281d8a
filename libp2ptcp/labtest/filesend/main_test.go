package main

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/lab"
)

func TestMain(m *testing.M) { lab.Main(m, roles()) }

// TestDemo sends a megabyte over a punched connection, and over the relay where none
// can be punched.
func TestDemo(t *testing.T) {
	for name, tt := range map[string]struct {
		mapping lab.Mapping
		punched bool
	}{
		"punched": {lab.PortShifting, true},
		"relayed": {lab.AddressAndPortDependent, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			d := demo{size: 1 << 20, rtt: 20 * time.Millisecond, mapping: tt.mapping, out: &out}
			m, err := d.run(t.Context(), lab.Start(t, d.topology()))
			if err != nil {
				t.Fatalf("%v\n%s", err, &out)
			}
			if (m.From != "") != tt.punched || !strings.Contains(out.String(), "the receiver has it") {
				t.Errorf("%+v\n%s", m, &out)
			}
		})
	}
}

func TestNoSuchFile(t *testing.T) {
	d := demo{file: "no such file", out: &bytes.Buffer{}}
	if err := d.transfer(t.Context(), nil, job{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestBar(t *testing.T) {
	if got, want := bar(50e6, 100e6, 10*time.Second), "["+strings.Repeat("#", 20)+strings.Repeat(".", 20)+"]  50 %    50.0 MB    5.0 MB/s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := bar(0, 0, 0); !strings.Contains(got, "0 %") {
		t.Errorf("nothing to send: %q", got)
	}
}
