package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/reusetransport/reuseport/lab"
)

// The drawing of a punch shows the three ways side by side, and only the first
// connects. The picture says the same as the text.
func TestPunch(t *testing.T) {
	file := filepath.Join(t.TempDir(), "punch.svg")
	for name, args := range map[string][]string{
		"drop":  {"-svg", file},
		"reset": {"-reset", "-late", "50ms"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := parsePunchFlags(args, os.Stderr)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			err = punch(context.Background(), cfg, &out)
			if errors.Is(err, lab.ErrRefused) && os.Getenv("CI") == "" {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			checkDrawing(t, out.String())
		})
	}
	picture, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	checkDrawing(t, texts(t, picture))
}

func checkDrawing(t *testing.T, drawn string) {
	t.Helper()
	if strings.Count(drawn, "not connected in 2.5s") != 2 || !strings.Contains(drawn, "both sides dialed") {
		t.Errorf("want one punch that connects and two that do not, in\n%s", drawn)
	}
	for _, want := range []string{"a :4001 is seen as 192.0.0.65:2", "b :4001 is seen as 192.0.0.66:2", "SYN,ACK", "NAT A"} {
		if !strings.Contains(drawn, want) {
			t.Errorf("no %q in\n%s", want, drawn)
		}
	}
}

// texts returns the texts of a picture, which must be well-formed.
func texts(t *testing.T, picture []byte) string {
	t.Helper()
	var b strings.Builder
	for d := xml.NewDecoder(bytes.NewReader(picture)); ; {
		token, err := d.Token()
		if err == io.EOF {
			return b.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := token.(xml.CharData); ok {
			b.Write(text)
		}
	}
}

func TestParsePunchFlags(t *testing.T) {
	if cfg, err := parsePunchFlags([]string{"-rtt", "soon"}, io.Discard); err == nil {
		t.Errorf("%+v, want an error", cfg)
	}
}
