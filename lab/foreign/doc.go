// Package foreign holds tests of Conn.Close against programs that nobody here wrote:
// nc, stunnel4, openssl, ab, wrk, h2load, curl, haproxy, nginx, socat, php and python3.
//
// Every row runs twice in one run, in turn: once over a reuseport.Transport and once
// over package net, with the same handler. The transport must do at least as well as
// package net. A row in which package net fails too proves nothing and is an error.
// One row asks for more, and says so: a process that exits right after Close.
//
// All of it happens in network namespaces, on the loopback of one host or on two hosts
// with 20 ms between them. The programs are children of the hosts, and end with them.
// A program that is not installed skips its rows, or fails them if CI is set in the
// environment. They come from these packages of Debian:
//
//	apache2-utils curl haproxy netcat-openbsd nghttp2-client nginx-light openssl
//	php-cli python3 socat stunnel4 wrk
//
// To see the figures, one line for each row:
//
//	go test -v ./foreign | grep 'reuseport '
//
// The flag -long adds TestLateReaderLong, a reader that begins after 30 s.
package foreign
