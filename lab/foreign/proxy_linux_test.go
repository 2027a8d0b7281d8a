package foreign_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/reusetransport/reuseport/lab"
)

// proxy is a reverse proxy.
type proxy struct {
	name  string
	start func(t *testing.T, s site, backend string) (addr string)
}

func proxies() []proxy {
	return []proxy{
		{"haproxy, keep-alive", haproxy("option http-keep-alive\n  http-reuse always")},
		{"haproxy, close", haproxy("option httpclose")},
		{"nginx, keep-alive", nginx(`proxy_http_version 1.1; proxy_set_header Connection "";`)},
		{"nginx, close", nginx("")},
	}
}

// haproxy returns a start of haproxy with options.
func haproxy(options string) func(t *testing.T, s site, backend string) string {
	return func(t *testing.T, s site, backend string) string {
		t.Helper()
		port := s.mustPort(t)
		addr := fmt.Sprintf("%s:%d", s.theirsAt, port)
		config := writeFile(t, "haproxy.cfg", fmt.Sprintf(haproxyConf, options, addr, backend))
		s.mustStart(t, command{Args: []string{program(t, "haproxy"), "-db", "-f", config}, Port: port, Limit: untilTheEnd})
		return addr
	}
}

const haproxyConf = `
global
  maxconn 200
defaults
  mode http
  timeout connect 5s
  timeout client 20s
  timeout server 20s
  %s
listen front
  bind %s
  server ours %s
`

// nginx returns a start of nginx with directives for the proxy. It runs as one process
// and stays root, which may be the only user of the namespace.
func nginx(directives string) func(t *testing.T, s site, backend string) string {
	return func(t *testing.T, s site, backend string) string {
		t.Helper()
		port := s.mustPort(t)
		addr := fmt.Sprintf("%s:%d", s.theirsAt, port)
		dir := t.TempDir()
		config := writeFile(t, "nginx.conf", strings.NewReplacer(
			"{dir}", dir, "{front}", addr, "{backend}", backend, "{directives}", directives).Replace(nginxConf))
		s.mustStart(t, command{
			Args: []string{program(t, "nginx"), "-p", dir, "-e", filepath.Join(dir, "error.log"), "-c", config},
			Port: port, Limit: untilTheEnd,
		})
		return addr
	}
}

const nginxConf = `
user root;
daemon off;
master_process off;
pid {dir}/nginx.pid;
error_log stderr;
events { worker_connections 200; }
http {
  access_log off;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  upstream ours { server {backend}; keepalive 8; }
  server {
    listen {front};
    location / { proxy_pass http://ours; {directives} }
  }
}
`

// TestProxies puts reverse proxies in front of our server, and reads through them with
// curl and with our own dialer, 200 requests each.
func TestProxies(t *testing.T) {
	onBoth(t, func(t *testing.T, s site) {
		for _, p := range proxies() {
			testProxy(t, s, p)
		}
	})
}

func testProxy(t *testing.T, s site, p proxy) {
	const size = 20_000
	curl := program(t, "curl")
	fronts := map[stack]string{}
	for k, addr := range s.mustServe(t, service{Manner: pages, Size: size}) {
		fronts[k] = p.start(t, s, addr)
	}
	compare(t, row{name: p.name + ": curl, 20 requests", tries: 10, atOnce: 5}, func(k stack, _ int) error {
		return s.whole(t.Context(), curlMany(curl, fronts[k]), size, 20)
	})
	compare(t, row{name: p.name + ": curl, 20 requests, close", tries: 10, atOnce: 5}, func(k stack, _ int) error {
		c := curlMany(curl, fronts[k])
		c.Args = append(c.Args, "-H", "Connection: close")
		return s.whole(t.Context(), c, size, 20)
	})
	for _, ends := range []bool{false, true} {
		r := row{name: fmt.Sprintf("%s: our client, 20 requests, close %v", p.name, ends), tries: 10, atOnce: 5}
		compare(t, r, func(k stack, _ int) error {
			return s.fetch(t.Context(), fetching{
				Stack: k, From: s.oursAt, URL: "http://" + fronts[k] + "/", Size: size, Times: 20, Close: ends,
			})
		})
	}
}

// curlMany returns a command that makes 20 requests and fails if one is not answered by
// 200 OK.
func curlMany(curl, addr string) command {
	return command{Args: []string{curl, "-sSf", "--max-time", "20", "http://" + addr + "/[1-20]"}}
}

// fetch makes our host fetch pages.
func (s site) fetch(ctx context.Context, f fetching) error {
	n, err := lab.Call[int](ctx, s.n, s.ours, "fetch", f)
	if err == nil && n < f.Times {
		err = fmt.Errorf("%d of %d", n, f.Times)
	}
	return err
}

// TestProxyToTheEnd reads answers without a length, which end with the connection.
func TestProxyToTheEnd(t *testing.T) {
	curl := program(t, "curl")
	onBoth(t, func(t *testing.T, s site) {
		const size = 50_000
		addrs := s.mustServe(t, service{Manner: endsPages, Size: size})
		for _, p := range proxies() {
			fronts := map[stack]string{}
			for k, addr := range addrs {
				fronts[k] = p.start(t, s, addr)
			}
			compare(t, row{name: p.name + ": curl, 20 answers without a length", tries: 5, atOnce: 5}, func(k stack, _ int) error {
				return s.whole(t.Context(), curlMany(curl, fronts[k]), size, 20)
			})
		}
	})
}

// TestClients reads pages with curl, php and socat, and with haproxy as a plain relay.
func TestClients(t *testing.T) {
	curl, php, socat := program(t, "curl"), program(t, "php"), program(t, "socat")
	onBoth(t, func(t *testing.T, s site) {
		const size = 50_000
		asked := s.mustServe(t, service{Manner: pages, Size: size})
		ended := s.mustServe(t, service{Manner: endsPages, Size: size})
		silent := s.mustServe(t, service{Manner: answers, Size: size})
		replied := s.mustServe(t, service{Manner: replies, Size: size})
		for _, c := range []struct {
			name  string
			addrs map[stack]string
			args  func(addr string) []string
			input int
		}{
			{"curl", asked, func(a string) []string { return []string{curl, "-sSf", "http://" + a + "/"} }, 0},
			{"curl, close", asked, func(a string) []string { return []string{curl, "-sSf", "-H", "Connection: close", "http://" + a + "/"} }, 0},
			{"curl, no length", ended, func(a string) []string { return []string{curl, "-sSf", "http://" + a + "/"} }, 0},
			{"php file_get_contents", asked, func(a string) []string { return []string{php, "-r", phpGets, "http://" + a + "/"} }, 0},
			{"php file_get_contents, no length", ended, func(a string) []string { return []string{php, "-r", phpGets, "http://" + a + "/"} }, 0},
			{"socat -u", silent, func(a string) []string { return []string{socat, "-u", "TCP:" + a, "-"} }, 0},
			{"socat, a request", replied, func(a string) []string { return []string{socat, "-", "TCP:" + a} }, 100},
		} {
			compare(t, row{name: c.name + ", 50 kB", tries: 10, atOnce: 2}, func(k stack, _ int) error {
				return s.whole(t.Context(), command{Args: c.args(c.addrs[k]), Input: c.input}, size, 1)
			})
		}
	})
}

const phpGets = `echo file_get_contents($argv[1]);`

// TestSocatListens sends to socat.
func TestSocatListens(t *testing.T) {
	socat := program(t, "socat")
	onBoth(t, func(t *testing.T, s site) {
		for _, size := range []int{1000, 200_000} {
			compare(t, row{name: fmt.Sprintf("sends %d B to socat", size), tries: 10, atOnce: 2}, func(k stack, _ int) error {
				return s.send(t.Context(), k, size, func(port int) command {
					listen := fmt.Sprintf("TCP-LISTEN:%d,bind=%s,reuseaddr", port, s.theirsAt)
					return command{Args: []string{socat, "-u", listen, "-"}}
				})
			})
		}
	})
}
