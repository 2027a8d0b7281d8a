package reuseport

import "fmt"

// This file makes the small types text in JSON, expvar and log/slog: what String returns.

// MarshalText returns String.
func (c Cause) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads what String returns; ErrUnknownName for anything else.
func (c *Cause) UnmarshalText(text []byte) error { return readName(c, text, causes, ErrUnknownName) }

// MarshalText returns String.
func (u PortUse) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText reads what String returns; ErrBadPortUse for anything else.
func (u *PortUse) UnmarshalText(text []byte) error {
	return readName(u, text, AwaitReuse+1, ErrBadPortUse)
}

// MarshalText returns String.
func (d Direction) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what String returns; ErrUnknownName for anything else.
func (d *Direction) UnmarshalText(text []byte) error {
	return readName(d, text, Accepted+1, ErrUnknownName)
}

// MarshalText returns String.
func (s PathState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what String returns; ErrUnknownName for anything else.
func (s *PathState) UnmarshalText(text []byte) error {
	return readName(s, text, PathBlocked+1, ErrUnknownName)
}

// MarshalText returns String.
func (d Distance) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what String returns; ErrUnknownName for anything else.
func (d *Distance) UnmarshalText(text []byte) error {
	return readName(d, text, DistanceGlobal+1, ErrUnknownName)
}

// readName sets to to the value below end whose String is text.
func readName[T interface {
	~int | ~uint8
	fmt.Stringer
}](to *T, text []byte, end T, unknown error) error {
	for v := T(0); v < end; v++ {
		if v.String() == string(text) {
			*to = v
			return nil
		}
	}
	return fmt.Errorf("%w: %q", unknown, text)
}
