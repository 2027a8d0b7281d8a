package reuseport_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/reusetransport/reuseport"
)

// names are values of the small types, and what they are in a text.
type names struct {
	Cause     reuseport.Cause
	Use       reuseport.PortUse
	Direction reuseport.Direction
	State     reuseport.PathState
	Distance  reuseport.Distance
	By        map[reuseport.Cause]int
}

const namesJSON = `{"Cause":"4-tuple in use","Use":"AwaitReuse","Direction":"accepted","State":"blocked","Distance":"global","By":{"policy":3}}`

// TestNamesInJSON: the small types are their names in JSON, as keys too, and are read back.
func TestNamesInJSON(t *testing.T) {
	want := names{reuseport.TupleInUse, reuseport.AwaitReuse, reuseport.Accepted, reuseport.PathBlocked, reuseport.DistanceGlobal, map[reuseport.Cause]int{reuseport.ByPolicy: 3}}
	b, err := json.Marshal(want)
	if err != nil || string(b) != namesJSON {
		t.Errorf("%s, %v", b, err)
	}
	var got names
	if err := json.Unmarshal([]byte(namesJSON), &got); err != nil || got.Cause != want.Cause || got.Use != want.Use ||
		got.Direction != want.Direction || got.State != want.State || got.Distance != want.Distance || got.By[reuseport.ByPolicy] != 3 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestNamesInLog: the small types are their names in a log.
func TestNamesInLog(t *testing.T) {
	for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"JSON": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var b bytes.Buffer
		slog.New(handler(&b)).Info("dialed", "use", reuseport.RequireReuse, "cause", reuseport.HedgeWon)
		if line := b.String(); !strings.Contains(line, "RequireReuse") || !strings.Contains(line, reuseport.HedgeWon.String()) {
			t.Errorf("%s: %s", name, line)
		}
	}
}

// TestUnknownNames: a text that is no name is a typed error, and changes nothing.
func TestUnknownNames(t *testing.T) {
	use, cause, direction, state := reuseport.RequireReuse, reuseport.TupleInUse, reuseport.Accepted, reuseport.PathProven
	for text, row := range map[string]struct {
		err  error
		want error
	}{
		"PortUse":   {use.UnmarshalText([]byte("requirereuse")), reuseport.ErrBadPortUse},
		"Cause":     {cause.UnmarshalText([]byte("")), reuseport.ErrUnknownName},
		"Direction": {direction.UnmarshalText([]byte("sideways")), reuseport.ErrUnknownName},
		"PathState": {state.UnmarshalText([]byte("PathState(7)")), reuseport.ErrUnknownName},
	} {
		if !errors.Is(row.err, row.want) {
			t.Errorf("%s: %v, want %v", text, row.err, row.want)
		}
	}
	if use != reuseport.RequireReuse || cause != reuseport.TupleInUse || direction != reuseport.Accepted || state != reuseport.PathProven {
		t.Errorf("%v, %v, %v, %v", use, cause, direction, state)
	}
}
