//go:build (unix && !solaris && !illumos && !aix) || windows

package reuseport_test

import goreuseport "github.com/libp2p/go-reuseport"

// legacyControl is the way in which go-reuseport listens.
var legacyControl = goreuseport.Control
