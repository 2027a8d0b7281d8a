//go:build !linux

package reuseport

import "net"

// ownKeepAlive is for the KeepAlive field of net.Dialer and net.ListenConfig: package
// net sets its keep-alive on each connection.
const ownKeepAlive = 0

// keepAlive does nothing: package net has done it.
func keepAlive(*net.TCPConn) {}
