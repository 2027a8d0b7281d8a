package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/reusetransport/reuseport/serve"
)

const (
	maxHeader = 8 << 10 // bytes of request line and header
	maxBody   = 1 << 20 // bytes of body
)

// greeter answers requests, each within timeout.
type greeter struct{ timeout time.Duration }

// serve is a serve.Handler: one request, one answer. It returns only errors worth
// logging; what the client did wrong is in the answer.
func (g greeter) serve(c net.Conn) (serve.Handler, error) {
	if err := c.SetDeadline(time.Now().Add(g.timeout)); err != nil {
		return nil, err
	}
	r := readers.Get().(*reader)
	defer r.release()
	r.reset(c)
	req, status := r.request()
	if status == 0 {
		return nil, nil // the client closed without a request
	}
	if status == http.StatusRequestTimeout {
		// The deadline has passed for the answer too.
		if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return nil, err
		}
	}
	if _, err := c.Write(answer(status, req != nil && req.Method == http.MethodHead)); err != nil {
		return nil, nil // the client is gone, or does not read
	}
	// The server closes c. Close of reuseport delivers the answer even to a client
	// that is still sending; a plain TCP close would reset the connection.
	return nil, nil
}

// reader reads one request. The limit lies below the buffer. Below the limit the
// reader keeps the connection's own error, because the parser reports a header that
// stops in the middle as malformed. It also keeps the text of the header, because the
// parser accepts more than a server should.
type reader struct {
	conn   net.Conn
	err    error
	text   []byte // the input so far, while the header is read
	inBody bool
	limit  io.LimitedReader
	buf    *bufio.Reader
}

var readers = sync.Pool{New: func() any {
	r := new(reader)
	r.buf = bufio.NewReaderSize(&r.limit, 4<<10)
	return r
}}

func (r *reader) reset(c net.Conn) {
	r.conn, r.err, r.text, r.inBody = c, nil, r.text[:0], false
	r.limit = io.LimitedReader{R: r, N: maxHeader}
	r.buf.Reset(&r.limit)
}

func (r *reader) release() {
	r.conn = nil
	readers.Put(r)
}

// Read reads from the connection.
func (r *reader) Read(p []byte) (int, error) {
	n, err := r.conn.Read(p)
	if !r.inBody {
		r.text = append(r.text, p[:n]...)
	}
	if err != nil {
		r.err = err
	}
	return n, err
}

// request reads a request with its body and returns the status of the answer, or 0
// for none.
func (r *reader) request() (*http.Request, int) {
	if _, err := r.buf.Peek(1); errors.Is(err, io.EOF) {
		return nil, 0
	}
	req, err := http.ReadRequest(r.buf)
	switch {
	case err != nil:
		return nil, r.fault(http.StatusRequestHeaderFieldsTooLarge)
	case req.ProtoMajor != 1:
		return nil, http.StatusHTTPVersionNotSupported
	case !validHeader(r.header(), req.ProtoAtLeast(1, 1)):
		return nil, http.StatusBadRequest
	case !onlyContinue(req.Header["Expect"]):
		return req, http.StatusExpectationFailed
	case req.ContentLength > maxBody:
		return req, http.StatusRequestEntityTooLarge
	}
	return req, r.body(req)
}

// header returns the text of the request line and the header, which have just been
// parsed, and ends keeping the text.
func (r *reader) header() string {
	r.inBody = true
	return string(r.text[:len(r.text)-r.buf.Buffered()])
}

// body reads the body. It stops a chunked one at maxBody.
func (r *reader) body(req *http.Request) int {
	if req.Body == http.NoBody {
		return http.StatusOK
	}
	if expectsContinue(req) {
		if _, err := io.WriteString(r.conn, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return 0
		}
	}
	r.limit.N = 2 * maxBody // room for the framing of chunks
	n, err := io.Copy(io.Discard, io.LimitReader(req.Body, maxBody+1))
	switch {
	case n > maxBody:
		return http.StatusRequestEntityTooLarge
	case err != nil:
		return r.fault(http.StatusRequestEntityTooLarge)
	}
	return http.StatusOK
}

// expectsContinue reports whether the client waits for a 100 before it sends the
// body. A server must not send one to an HTTP/1.0 client (RFC 9110, section 10.1.1).
func expectsContinue(req *http.Request) bool {
	return req.ProtoAtLeast(1, 1) && isContinue(req.Header.Get("Expect"))
}

// fault returns the status for a request that could not be read to its end.
func (r *reader) fault(tooLarge int) int {
	switch {
	case r.limit.N <= 0:
		return tooLarge
	case errors.Is(r.err, os.ErrDeadlineExceeded):
		return http.StatusRequestTimeout
	case r.err != nil && !errors.Is(r.err, io.EOF):
		return 0 // the connection failed: no answer can be sent
	}
	return http.StatusBadRequest
}

// validHeader reports whether a header that http.ReadRequest has accepted also meets
// what RFC 9112 asks of a server: no field has white space before its colon (section
// 5.1), no line continues the one before (5.2), an HTTP/1.1 request has a valid Host
// (3.2; two are refused by ReadRequest), and a length does not stand beside a transfer
// coding, which HTTP/1.0 does not have (6.1).
func validHeader(text string, http11 bool) bool {
	var host, coding, length bool
	_, fields, _ := strings.Cut(text, "\n") // after the request line
	for line := range strings.Lines(fields) {
		name, value, _ := strings.Cut(line, ":")
		switch {
		case strings.ContainsAny(name, " \t"):
			return false
		case strings.EqualFold(name, "Host"):
			if host = validHost(strings.TrimSpace(value)); !host {
				return false
			}
		case strings.EqualFold(name, "Transfer-Encoding"):
			coding = true
		case strings.EqualFold(name, "Content-Length"):
			length = true
		}
	}
	if !http11 {
		return !coding
	}
	return host && !(coding && length)
}

// validHost reports whether a Host consists of bytes that a host and port may have (RFC
// 3986, section 3.2.2). It may be empty.
func validHost(host string) bool {
	return strings.IndexFunc(host, isNoHostRune) < 0
}

func isNoHostRune(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		return false
	}
	return !strings.ContainsRune("-._~%!$&'()*+,;=:[]", r)
}

// onlyContinue reports whether a client expects nothing but a 100 (RFC 9110, section
// 10.1.1).
func onlyContinue(expectations []string) bool {
	return !slices.ContainsFunc(expectations, func(e string) bool { return !isContinue(e) })
}

func isContinue(expectation string) bool { return strings.EqualFold(expectation, "100-continue") }

const greeting = "Hello"

var (
	okHead   = head(http.StatusOK, len(greeting))
	okAnswer = append(head(http.StatusOK, len(greeting)), greeting...)
)

func answer(status int, headOnly bool) []byte {
	switch {
	case status != http.StatusOK:
		return head(status, 0)
	case headOnly:
		return okHead
	}
	return okAnswer
}

func head(status, length int) []byte {
	return []byte("HTTP/1.1 " + strconv.Itoa(status) + " " + http.StatusText(status) +
		"\r\nContent-Type: text/html\r\nContent-Length: " + strconv.Itoa(length) +
		"\r\nConnection: close\r\n\r\n")
}
