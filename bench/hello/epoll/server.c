/*
 * A single-threaded epoll server that does the same job as examples/hello, for
 * comparison: an HTTP server on one port that reads any request, its body up to
 * Content-Length, answers "Hello" and closes. It holds at most MAX_CONNS connections;
 * the rest wait in the kernel's queue. Each connection has TIMEOUT seconds in all.
 *
 *   cc -O2 -o server server.c && ./server 8080
 *
 * A connection that waits for its request costs one struct conn. Chunked bodies
 * are not understood.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNS = 19000, MAX_HEADER = 8192, MAX_BODY = 1 << 20, TIMEOUT = 60, BACKLOG = 4096, EVENTS = 128 };

struct conn {
	struct conn *prev, *next; /* in the order of their deadlines */
	time_t deadline;
	long long body;           /* bytes of body still to come, -1: in the header */
	char *header;             /* the unfinished header, NULL: none */
	int len;                  /* of header */
	int fd;
	int watched;
};

static struct conn conns = { &conns, &conns, 0, 0, NULL, 0, -1, 0 };
static int nconns, epfd, listener, accepting = 1;

static const char ok[] =
	"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\nConnection: close\r\n\r\nHello";

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static time_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return t.tv_sec;
}

static void watch_listener(int on)
{
	struct epoll_event ev = { .events = on ? EPOLLIN : 0, .data.ptr = NULL };
	if (epoll_ctl(epfd, EPOLL_CTL_MOD, listener, &ev) != 0)
		die("epoll_ctl");
	accepting = on;
}

static void finish(struct conn *c)
{
	close(c->fd);
	c->prev->next = c->next;
	c->next->prev = c->prev;
	free(c->header);
	free(c);
	if (nconns-- == MAX_CONNS)
		watch_listener(1);
}

/* One write: the answer fits into any empty send buffer. */
static void answer(struct conn *c, const char *text, size_t len)
{
	if (send(c->fd, text, len, MSG_NOSIGNAL) < 0 && errno != EPIPE && errno != ECONNRESET)
		perror("send");
	finish(c);
}

static void refuse(struct conn *c, const char *status)
{
	char text[128];
	int len = snprintf(text, sizeof text,
		"HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status);
	answer(c, text, len);
}

/* content_length returns 0 if there is none, -1 if it is not a number. */
static long long content_length(const char *header, const char *end)
{
	for (const char *line = header; line < end; line++) {
		if (end - line > 15 && strncasecmp(line, "Content-Length:", 15) == 0) {
			char *rest;
			long long n = strtoll(line + 15, &rest, 10);
			return n < 0 || *rest != '\r' ? -1 : n;
		}
		line = memchr(line, '\n', end - line);
		if (line == NULL)
			break;
	}
	return 0;
}

/* take_body counts n bytes of body and returns true if they were the last. */
static int take_body(struct conn *c, long long n)
{
	c->body -= n;
	if (c->body > 0)
		return 0;
	answer(c, ok, sizeof ok - 1);
	return 1;
}

/* keep stores an unfinished header until more of it comes. */
static int keep(struct conn *c, const char *header, int len)
{
	if (len >= MAX_HEADER) {
		refuse(c, "431 Request Header Fields Too Large");
		return 1;
	}
	if (c->header == NULL && (c->header = malloc(MAX_HEADER + 1)) == NULL)
		die("malloc");
	memmove(c->header, header, len);
	c->len = len;
	return 0;
}

/* take_header parses what has arrived so far and returns true if c is gone. */
static int take_header(struct conn *c, char *header, int len)
{
	header[len] = 0;
	char *end = memmem(header, len, "\r\n\r\n", 4);
	if (end == NULL)
		return keep(c, header, len);
	long long n = content_length(header, end + 2);
	if (n < 0 || memmem(header, end - header, " HTTP/1.", 8) == NULL) {
		refuse(c, "400 Bad Request");
		return 1;
	}
	if (n > MAX_BODY) {
		refuse(c, "413 Request Entity Too Large");
		return 1;
	}
	c->body = n;
	return take_body(c, len - (end + 4 - header));
}

/* take reads once and returns true if c is gone. */
static int take(struct conn *c)
{
	static char scratch[MAX_HEADER + 1];
	char *buf = c->header && c->body < 0 ? c->header : scratch;
	int have = buf == scratch ? 0 : c->len;
	ssize_t n = read(c->fd, buf + have, MAX_HEADER - have);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n < 0 || (n == 0 && have == 0 && c->body < 0)) {
		finish(c);
		return 1;
	}
	if (n == 0) {
		refuse(c, "400 Bad Request");
		return 1;
	}
	return c->body < 0 ? take_header(c, buf, have + n) : take_body(c, n);
}

static void watch(struct conn *c)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = c };
	if (epoll_ctl(epfd, EPOLL_CTL_ADD, c->fd, &ev) != 0)
		die("epoll_ctl");
	c->watched = 1;
}

static void start(int fd)
{
	struct conn *c = calloc(1, sizeof *c);
	if (c == NULL)
		die("calloc");
	c->fd = fd;
	c->body = -1;
	c->deadline = now() + TIMEOUT;
	c->prev = conns.prev;
	c->next = &conns;
	c->prev->next = c->next->prev = c;
	if (++nconns == MAX_CONNS)
		watch_listener(0);
	if (!take(c)) /* the request has usually arrived already */
		watch(c);
}

static void accept_all(void)
{
	while (accepting) {
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0)
			start(fd);
		else if (errno == EAGAIN)
			return;
		else if (errno != ECONNABORTED)
			die("accept4");
	}
}

static void expire(void)
{
	time_t t = now();
	while (conns.next != &conns && conns.next->deadline <= t)
		refuse(conns.next, "408 Request Timeout");
}

static int listen_on(int port)
{
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int on = 1, off = 0, fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
	    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) != 0 ||
	    bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, BACKLOG) != 0)
		die("listen");
	return fd;
}

int main(int argc, char **argv)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = NULL }, events[EVENTS];
	if (argc != 2)
		return fprintf(stderr, "usage: server port\n"), 2;
	listener = listen_on(atoi(argv[1]));
	epfd = epoll_create1(EPOLL_CLOEXEC);
	if (epfd < 0 || epoll_ctl(epfd, EPOLL_CTL_ADD, listener, &ev) != 0)
		die("epoll");
	for (;;) {
		int n = epoll_wait(epfd, events, EVENTS, 1000);
		for (int i = 0; i < n; i++) {
			if (events[i].data.ptr == NULL)
				accept_all();
			else
				take(events[i].data.ptr);
		}
		expire();
	}
}
