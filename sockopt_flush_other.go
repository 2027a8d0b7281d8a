//go:build (!unix || aix) && !windows

package reuseport

import "errors"

// canFlush: these systems give no access to the socket, or x/sys has not the calls.
// Close is the system's own there, and nothing of what follows is reached.
const canFlush = false

func hasUnread(fd uintptr) bool { return true }

func hasReceived(fd uintptr) bool { return false }

func finSent(fd uintptr) bool { return true }

func discard(fd uintptr, buf []byte) (int, error) { return 0, errors.ErrUnsupported }

func shutdownWrite(fd uintptr) error { return errors.ErrUnsupported }

func isGone(err error) bool { return false }

func setLinger(fd uintptr, reset bool) error { return errors.ErrUnsupported }

func dupSocketFD(fd uintptr) (uintptr, error) { return 0, errors.ErrUnsupported }

func closeSocketFD(fd uintptr) error { return errors.ErrUnsupported }
