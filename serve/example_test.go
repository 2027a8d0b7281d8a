package serve_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"time"

	"github.com/reusetransport/reuseport/serve"
)

// This server of lines spends no goroutine on a quiet client.
func Example() {
	var answer serve.Handler
	answer = func(c net.Conn) (serve.Handler, error) {
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return nil, err
		}
		var line [64]byte // lines are short and come one at a time: nothing is read ahead
		n, err := c.Read(line[:])
		if err == io.EOF {
			return nil, nil // done
		}
		if err != nil {
			return nil, err // done, and logged
		}
		_, err = fmt.Fprintf(c, "you said %s", line[:n])
		return answer, err // call me when there is more
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	s := &serve.Server{Handler: answer, MaxConns: 100_000, ParkNew: true, IdleTimeout: time.Hour}
	ended := make(chan error)
	go func() { ended <- s.Serve(l) }()

	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprintln(c, "hello")
	said, err := bufio.NewReader(c).ReadString('\n')
	fmt.Print(said, err, "\n")

	fmt.Println(s.Shutdown(context.Background())) // closes what is parked
	fmt.Println(<-ended)
	// Output:
	// you said hello
	// <nil>
	// <nil>
	// serve: server closed
}

// RetryAccept helps a server that stops at the first accept error.
func ExampleRetryAccept() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	l = serve.RetryAccept(l, 50*time.Millisecond)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // the listener is closed
			}
			fmt.Fprintln(c, "hello")
			c.Close()
		}
	}()

	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	said, err := io.ReadAll(c)
	fmt.Print(string(said), err, "\n")
	fmt.Println(l.Close())
	// Output:
	// hello
	// <nil>
	// <nil>
}
