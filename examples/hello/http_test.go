package main

import (
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/serve"
)

// rivals are hello's handler and net/http's server, each on a port of its own.
type rivals struct{ ours, theirs string }

func startRivals(t *testing.T) rivals {
	t.Helper()
	s := &serve.Server{Handler: greeter{timeout: 5 * time.Second}.serve}
	ours := listen(t)
	go func() { _ = s.Serve(ours) }() // ends with Close
	h := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(discard)}
	theirs := listen(t)
	go func() { _ = h.Serve(theirs) }() // as above
	t.Cleanup(func() { _, _ = s.Close(), h.Close() })
	return rivals{ours.Addr().String(), theirs.Addr().String()}
}

// discard answers 200 to a request whose body can be read.
func discard(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		w.WriteHeader(http.StatusBadRequest)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// statusOf sends all there is of a request, and returns the status of the first answer.
func statusOf(t *testing.T, addr, request string) string {
	t.Helper()
	c, err := net.Dial("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }() // the answer has been read
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, request) // may be refused before its end
	_ = c.(*net.TCPConn).CloseWrite() // as above
	got, _ := io.ReadAll(c)           // a reset may follow the answer
	return status(strings.TrimPrefix(string(got), "HTTP/1.1 100 Continue\r\n\r\n"))
}

const (
	get  = "GET / HTTP/1.1\r\n"
	post = "POST / HTTP/1.1\r\nHost: h\r\n"
)

// What RFC 9112 makes a server refuse in a request line or in a field, hello refuses.
func TestRefusesHeader(t *testing.T) {
	refuses(t, map[string]exchange{
		"no Host":               {get + "\r\n", "400"},
		"no Host, other fields": {get + "X-Host: h\r\nHost-: h\r\n\r\n", "400"},
		"no Host, absolute":     {"GET http://h/ HTTP/1.1\r\n\r\n", "400"},
		"no Host, CONNECT":      {"CONNECT h:1 HTTP/1.1\r\n\r\n", "400"},
		"no Host, HTTP/1.0":     {"GET / HTTP/1.0\r\n\r\n", "200"},
		"empty Host":            {get + "Host:\r\n\r\n", "200"},
		"IPv6 Host":             {get + "hOST: \t[::1]:8080 \r\n\r\n", "200"},
		"two Hosts":             {get + "Host: h\r\nHost: h\r\n\r\n", "400"},
		"two Hosts, HTTP/1.0":   {"GET / HTTP/1.0\r\nHost: h\r\nHost: h\r\n\r\n", "400"},
		"bad Host":              {get + "Host: a/b\r\n\r\n", "400"},
		"bad Host, HTTP/1.0":    {"GET / HTTP/1.0\r\nHost: a b\r\n\r\n", "400"},
		"bad Host, absolute":    {"GET http://h/ HTTP/1.1\r\nHost: \"\r\n\r\n", "400"},
		"space before colon":    {get + "Host : h\r\n\r\n", "400"},
		"tab before colon":      {get + "Host\t: h\r\n\r\n", "400"},
		"space in other field":  {get + "Host: h\r\nA : b\r\n\r\n", "400"},
		"space in name":         {get + "Host: h\r\nA B: c\r\n\r\n", "400"},
		"folded":                {get + "Host: h\r\nA: b\r\n c\r\n\r\n", "400"},
		"folded Host":           {get + "Host:\r\n\th\r\n\r\n", "400"},
		"folded request line":   {get + " Host: h\r\n\r\n", "400"},
		"Host in the body":      {"POST / HTTP/1.1\r\nContent-Length: 11\r\n\r\nHost: h\r\n\r\n", "400"},
		"bare CR in value":      {get + "Host: h\r\nA: b\rc\r\n\r\n", "400"},
		"bare CR in name":       {get + "Host: h\r\nA\rB: c\r\n\r\n", "400"},
		"bare CR ends line":     {get + "Host: h\rA: b\r\n\r\n", "400"},
		"NUL":                   {get + "Host: h\r\nA: \x00\r\n\r\n", "400"},
		"no name":               {get + "Host: h\r\n: b\r\n\r\n", "400"},
		"no colon":              {get + "Host: h\r\nA\r\n\r\n", "400"},
		"bad byte in name":      {get + "Host: h\r\nA(: b\r\n\r\n", "400"},
		"no token as method":    {"G(T / HTTP/1.1\r\nHost: h\r\n\r\n", "400"},
		"two spaces":            {"GET  / HTTP/1.1\r\nHost: h\r\n\r\n", "400"},
		"bad version":           {"GET / HTTP/1.1x\r\nHost: h\r\n\r\n", "400"},
		"old version":           {"GET / HTTP/0.9\r\nHost: h\r\n\r\n", "505"},
	})
}

// A body whose end is in doubt is refused, and so is an expectation that cannot be met.
func TestRefusesBody(t *testing.T) {
	refuses(t, map[string]exchange{
		"two lengths":        {post + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "400"},
		"list of lengths":    {post + "Content-Length: 3, 3\r\n\r\nabc", "400"},
		"signed length":      {post + "Content-Length: +3\r\n\r\nabc", "400"},
		"negative length":    {post + "Content-Length: -3\r\n\r\nabc", "400"},
		"other coding":       {post + "Transfer-Encoding: gzip\r\n\r\nabc", "400"},
		"two codings":        {post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "400"},
		"chunked twice":      {post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
		"chunked and length": {post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
		"bad chunk":          {post + "Transfer-Encoding: chunked\r\n\r\nx\r\n\r\n", "400"},
		"other expectation":  {post + "Expect: cake\r\n\r\n", "417"},
		"second expectation": {post + "Expect: 100-continue\r\nExpect: cake\r\n\r\n", "417"},
	})
}

// exchange is a request and the start of the status of its answer.
type exchange struct{ request, want string }

// refuses demands that hello answers as wanted, and net/http's server takes what hello
// takes.
func refuses(t *testing.T, exchanges map[string]exchange) {
	t.Helper()
	r := startRivals(t)
	for name, tt := range exchanges {
		t.Run(name, func(t *testing.T) {
			ours, theirs := statusOf(t, r.ours, tt.request), statusOf(t, r.theirs, tt.request)
			if !strings.HasPrefix(ours, tt.want) || tt.want == "200" && !isOK(theirs) {
				t.Errorf("%q, want %s; net/http: %q", ours, tt.want, theirs)
			}
		})
	}
}

// What net/http's server refuses, hello refuses: never is it more lenient.
func TestNoMoreLenientThanNetHTTP(t *testing.T) {
	r, random := startRivals(t), rand.New(rand.NewPCG(13, 5))
	accepted := 0
	for range 3000 {
		request := mutant(random)
		ours := statusOf(t, r.ours, request)
		if !isOK(ours) {
			continue
		}
		accepted++
		if theirs := statusOf(t, r.theirs, request); !isOK(theirs) {
			t.Errorf("%q: %s, net/http: %s", request, ours, theirs)
		}
	}
	if accepted < 300 {
		t.Errorf("only %d requests were accepted: the mutants are too strange", accepted)
	}
}

func isOK(status string) bool { return strings.HasSuffix(status, "200 OK") }

// mutant returns a request of a few lines with a few mistakes.
func mutant(random *rand.Rand) string {
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	lines := []string{
		pick("GET", "POST", "CONNECT", "OPTIONS") + " " + pick("/", "/", "*", "h:1", "http://h/") + " HTTP/1." + pick("1", "1", "0"),
	}
	for range 1 + random.IntN(4) {
		lines = append(lines, pick("Host: h", "Host: h", "host:[::1]:80", "A: b", "Content-Length: 3", "Transfer-Encoding: chunked",
			"Expect: 100-continue", "Connection: close", "Trailer: A", "Upgrade: h2c", "Expect: b"))
	}
	request := []byte(strings.Join(lines, "\r\n") + "\r\n\r\n" + pick("", "abc", "3\r\nabc\r\n0\r\n\r\n", "0\r\nA: b\r\n\r\n"))
	for range random.IntN(3) {
		at := random.IntN(len(request))
		request = slices.Replace(request, at, at+random.IntN(2), []byte(pick("", " ", "\t", "\r", "\n", ":", "\x00", "\x7f", "\xff", ",", "\"", "\r\n ", ";"))...)
	}
	return string(request)
}
