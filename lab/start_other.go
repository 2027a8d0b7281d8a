//go:build !linux

package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// startKeeper fails: only Linux has network namespaces.
func startKeeper(_, _ *os.File, _ []*os.File, _ io.Writer) (*exec.Cmd, error) {
	return nil, errors.ErrUnsupported
}

func refusal(err error) error { return fmt.Errorf("%w: %w", ErrRefused, err) }

// runKeeper is never reached, since no keeper can be started.
func runKeeper() error { return errors.ErrUnsupported }
