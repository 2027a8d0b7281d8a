//go:build linux

package main

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/reusetransport/reuseport/serve"
)

// parts are servers that show what the parts of examples/hello cost.
var parts = map[string]func(port int) error{
	"serve":           func(port int) error { return answer(port, 1) },
	"serve-2-handles": func(port int) error { return answer(port, 2) },
	"net/http":        netHTTP,
	"parked":          park,
	"bare":            func(port int) error { return holdAll(port, func(net.Conn) {}) },
	"goroutine":       func(port int) error { return holdAll(port, func(c net.Conn) { go readAll(c) }) },
}

// part returns how to start one of them.
func part(name, role string) server {
	argv := func(port string) []string { return []string{"/proc/self/exe", "-role", role, port} }
	return server{name: name, argv: argv}
}

// requestParts returns the parts that answer requests.
func requestParts() []server {
	return []server{
		part("serve, no transport, no parser", "serve"),
		part("the same, 2 accept handles", "serve-2-handles"),
		part("net/http", "net/http"),
	}
}

// idleParts returns the parts that hold silent connections.
func idleParts() []server {
	return []server{
		part("serve, parked", "parked"),
		part("net.TCPConn, nothing else", "bare"),
		part("a goroutine each, in Read", "goroutine"),
		part("net/http", "net/http"),
	}
}

func listenOn(port int) (net.Listener, error) { return net.Listen("tcp", ":"+strconv.Itoa(port)) }

const response = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\nConnection: close\r\n\r\nHello"

// answer reads once and answers, whatever it read: the least that package serve and
// package net can do.
func answer(port, handles int) error {
	l, err := listenOn(port)
	if err != nil {
		return err
	}
	s := &serve.Server{ParkNew: true, IdleTimeout: time.Minute, Handler: func(c net.Conn) (serve.Handler, error) {
		var b [512]byte
		if _, err := c.Read(b[:]); err != nil {
			return nil, err
		}
		_, err := io.WriteString(c, response)
		return nil, err
	}}
	return s.ServeN(l, handles)
}

func netHTTP(port int) error {
	l, err := listenOn(port)
	if err != nil {
		return err
	}
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, "Hello") // the client notices
	}))
}

// park parks idle connections with package serve.
func park(port int) error {
	l, err := listenOn(port)
	if err != nil {
		return err
	}
	s := &serve.Server{ParkNew: true, IdleTimeout: time.Minute, Handler: func(c net.Conn) (serve.Handler, error) {
		_, err := io.Copy(io.Discard, c)
		return nil, err
	}}
	return s.Serve(l)
}

// holdAll accepts connections, passes each to use, and keeps them.
func holdAll(port int, use func(net.Conn)) error {
	l, err := listenOn(port)
	if err != nil {
		return err
	}
	var held struct{ conns []net.Conn } // a dropped connection would be closed by its finalizer
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		held.conns = append(held.conns, c)
		use(c)
	}
}

// readAll does the least that a goroutine per connection can, with a buffer of one
// byte.
func readAll(c net.Conn) {
	var b [1]byte
	for {
		if _, err := c.Read(b[:]); err != nil {
			return // the client was killed
		}
	}
}
