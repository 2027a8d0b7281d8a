package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// asHello makes the test binary run the program instead of the tests.
const asHello = "RUN_HELLO"

func TestMain(m *testing.M) {
	if os.Getenv(asHello) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// program is a running hello.
type program struct {
	*exec.Cmd
	addr string
}

// start runs hello on a free port, which it reads from the log.
func start(t *testing.T, args ...string) *program {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"-port", "0"}, args...)...)
	cmd.Env = append(os.Environ(), asHello+"=1")
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &program{Cmd: cmd}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // as above
	})
	lines := bufio.NewReader(log)
	line, err := lines.ReadString('\n')
	port := regexp.MustCompile(`addr=\S*:(\d+)`).FindStringSubmatch(line)
	if err != nil || port == nil {
		t.Fatalf("hello said %q, %v", line, err)
	}
	p.addr = "127.0.0.1:" + port[1]
	go func() { _, _ = io.Copy(io.Discard, lines) }() // the rest of the log
	return p
}

// say sends raw bytes and returns all that comes back.
func (p *program) say(t *testing.T, text string) string {
	t.Helper()
	c := p.dial(t)
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("after %q: %v", got, err)
	}
	return string(got)
}

func (p *program) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp4", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // the program has usually closed it
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// status returns the status in the first line of an answer.
func status(answer string) string {
	line, _, _ := strings.Cut(answer, "\r\n")
	return strings.TrimPrefix(line, "HTTP/1.1 ")
}

func TestAnswers(t *testing.T) {
	p := start(t, "-timeout", "300ms")
	long := strings.Repeat("x", 2<<20)
	for name, tt := range map[string]struct{ request, want string }{
		"get":              {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "200 OK"},
		"any method":       {"BREW /pot HTTP/1.1\r\nHost: h\r\n\r\n", "200 OK"},
		"HTTP/1.0":         {"GET / HTTP/1.0\r\n\r\n", "200 OK"},
		"1.0 continue":     {"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", "200 OK"},
		"body":             {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", "200 OK"},
		"chunked":          {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "200 OK"},
		"body too long":    {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n" + long[:1<<17], "200 OK"},
		"body never comes": {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nab", "408 Request Timeout"},
		"half a request":   {"GET / HTTP/1.1\r\nHo", "408 Request Timeout"},
		"not HTTP":         {"\x16\x03\x01 hello\r\n\r\n", "400 Bad Request"},
		"HTTP/2":           {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 HTTP Version Not Supported"},
		"big header":       {"GET / HTTP/1.1\r\nHost: h\r\nA: " + long[:1<<16], "431 Request Header Fields Too Large"},
		"big body":         {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2000000\r\n\r\n", "413 Request Entity Too Large"},
		"big chunks":       {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1fffff\r\n" + long[:1<<20+100], "413 Request Entity Too Large"},
	} {
		t.Run(name, func(t *testing.T) {
			got := p.say(t, tt.request)
			if status(got) != tt.want {
				t.Errorf("%q, want %s", got, tt.want)
			}
			if tt.want == "200 OK" && !strings.HasSuffix(got, "Content-Type: text/html\r\nContent-Length: 5\r\nConnection: close\r\n\r\nHello") {
				t.Errorf("answer %q", got)
			}
		})
	}
}

func TestHeadHasNoBody(t *testing.T) {
	got := start(t).say(t, "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
	if status(got) != "200 OK" || !strings.HasSuffix(got, "\r\n\r\n") {
		t.Errorf("answer %q", got)
	}
}

// A body cut short by its sender's FIN is distinguished from a slow one.
func TestShortBody(t *testing.T) {
	c := start(t).dial(t)
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nab"); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil || status(string(got)) != "400 Bad Request" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestExpectContinue(t *testing.T) {
	c := start(t).dial(t)
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	if line, err := in.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if _, err := io.WriteString(c, "abc"); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(in)
	if err != nil || !bytes.HasSuffix(got, []byte("Hello")) {
		t.Errorf("%q, %v", got, err)
	}
}

// Bad flags are an error: hello does not pick another port or answer 408 to
// everything.
func TestBadFlags(t *testing.T) {
	for _, args := range [][]string{{"-port", "70000"}, {"-timeout", "0"}, {"-timeout", "-1s"}, {"8080"}} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, os.Args[0], args...)
		cmd.Env = append(os.Environ(), asHello+"=1")
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "-port must be") {
			t.Errorf("%v: %v, %s", args, err, out)
		}
	}
}

// Clients that send nothing, or a byte now and then, do not hold their slots for
// ever.
func TestSlowClientsFreeTheirSlots(t *testing.T) {
	p := start(t, "-max", "4", "-timeout", "200ms")
	for i := range 8 {
		c := p.dial(t)
		if i%2 == 0 {
			go drip(c)
		}
	}
	if got := p.say(t, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); status(got) != "200 OK" {
		t.Errorf("answer %q", got)
	}
}

// drip sends a header that never ends.
func drip(c net.Conn) {
	for _, err := io.WriteString(c, "GET / HTTP/1.1\r\n"); err == nil; _, err = io.WriteString(c, "a") {
		time.Sleep(20 * time.Millisecond)
	}
}

// Ordinary clients make many requests at once, and SIGINT comes in the middle. Each
// request is answered or refused; none is lost.
func TestOrdinaryClientsAndInterrupt(t *testing.T) {
	p := start(t)
	var clients sync.WaitGroup
	lost := make(chan error, 10)
	for range 10 {
		clients.Go(func() { lost <- untilRefused("http://" + p.addr) })
	}
	time.Sleep(300 * time.Millisecond)
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	clients.Wait()
	close(lost)
	for err := range lost {
		if err != nil {
			t.Error(err)
		}
	}
	if err := p.Wait(); err != nil {
		t.Errorf("hello ended with %v", err)
	}
}

// untilRefused makes requests until it cannot connect, or until its connection was
// still in the accept queue when the listener closed.
func untilRefused(url string) error {
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for n := 0; ; n++ {
		resp, err := client.Get(url)
		if err != nil {
			return ifNeverServed(n, err)
		}
		body, err := io.ReadAll(resp.Body)
		if string(body) != "Hello" || err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %q, %w", resp.Status, body, err)
		}
	}
}

func ifNeverServed(n int, err error) error {
	if n == 0 || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}
