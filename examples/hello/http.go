package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
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
// stops in the middle as malformed.
type reader struct {
	conn  net.Conn
	err   error
	limit io.LimitedReader
	buf   *bufio.Reader
}

var readers = sync.Pool{New: func() any {
	r := new(reader)
	r.buf = bufio.NewReaderSize(&r.limit, 4<<10)
	return r
}}

func (r *reader) reset(c net.Conn) {
	r.conn, r.err = c, nil
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
	case req.ContentLength > maxBody:
		return req, http.StatusRequestEntityTooLarge
	}
	return req, r.body(req)
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
	return req.ProtoAtLeast(1, 1) && strings.EqualFold(req.Header.Get("Expect"), "100-continue")
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
