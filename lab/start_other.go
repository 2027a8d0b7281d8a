//go:build !linux

package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// startKeeper fails: network namespaces exist on Linux only.
func startKeeper(_, _ *os.File, _ []*os.File, _ io.Writer) (*exec.Cmd, error) {
	return nil, errors.ErrUnsupported
}

func refusal(err error) error { return fmt.Errorf("%w: %w", ErrRefused, err) }

// runKeeper is never reached: startKeeper starts none.
func runKeeper() error { return errors.ErrUnsupported }
