//go:build !linux

package reuseport

import "syscall"

// acceptKeepAlive is for net.ListenConfig: the default, on each connection.
const acceptKeepAlive = 0

// keepAliveEarly does nothing: package net sets keep-alive on each connection.
func keepAliveEarly(_, _ string, _ syscall.RawConn) error { return nil }
