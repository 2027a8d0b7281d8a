//go:build !plan9

package reuseport_test

import "flag"

// soak runs what takes minutes: go test -race -soak -timeout 30m .
var soak = flag.Bool("soak", false, "run the long tests too")
