//go:build linux

package main

import (
	"bufio"
	"fmt"
	"os"
	"time"
)

// compareIdle prints the resident memory that n idle connections cost each server.
func compareIdle(servers []server, n int) error {
	fmt.Printf("%d idle connections:\n", n)
	for _, s := range servers {
		perConn, err := s.measureIdle(n)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Printf("  %-32s %7.0f bytes resident each\n", s.name, perConn)
	}
	return nil
}

// settle is how long a server may take to come to rest before its memory is read.
const settle = 500 * time.Millisecond

// warm is the number of connections that warm a server up.
const warm = 100

// measureIdle returns the growth of resident memory by one idle connection. It
// compares n connections with the first hundred, which also load the code and all
// that is needed only once.
func (s server) measureIdle(n int) (float64, error) {
	p, port, err := s.run()
	if err != nil {
		return 0, err
	}
	defer p.stop()
	before, err := p.residentWith(port, warm)
	if err != nil {
		return 0, err
	}
	after, err := p.residentWith(port, n)
	return float64(after-before) / float64(n-warm), err
}

// residentWith returns the resident memory of p while it holds n idle connections.
func (p process) residentWith(port, n int) (int, error) {
	client, err := startHolder(port, n)
	if err != nil {
		return 0, err
	}
	defer client.stop()
	time.Sleep(settle)
	return p.resident()
}

// startHolder starts the process with the clients and waits until all are connected.
func startHolder(port, n int) (process, error) {
	client := child(self("idle", port, n))
	client.Stderr = os.Stderr
	out, err := client.StdoutPipe()
	if err != nil {
		return client, err
	}
	if err := client.Start(); err != nil {
		return client, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		client.stop()
		return client, fmt.Errorf("clients said %q: %w", line, err)
	}
	return client, nil
}

// hold opens n connections that send nothing, reports it and waits to be killed.
func hold(port, n int) error {
	for i := range n {
		if _, err := connect([4]byte{127, 0, 2, byte(i%200 + 1)}, port); err != nil {
			return fmt.Errorf("client %d: %w", i, err)
		}
	}
	fmt.Println("connected")
	time.Sleep(time.Minute)
	return nil
}
