"""Waits until the peer has closed, and prints what the system shows of the connection:
one line of JSON."""
import argparse
import errno
import json
import select
import socket
import time

p = argparse.ArgumentParser()
p.add_argument("host")
p.add_argument("port", type=int)
p.add_argument("--listen", action="store_true")
p.add_argument("--reads", action="store_true", help="read to the end before the look")
p.add_argument("--says", default="", help="what to send first")
p.add_argument("--delay", type=float, default=0, help="seconds between the end and the look")
args = p.parse_args()

NAMES = ["POLLIN", "POLLPRI", "POLLOUT", "POLLERR", "POLLHUP", "POLLRDHUP"]
WANTED = select.POLLIN | select.POLLPRI | select.POLLOUT | select.POLLRDHUP


def result(call, *arguments):
    """Returns what call returns, or the name of its error."""
    try:
        return call(*arguments)
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e))


def connection():
    if not args.listen:
        return socket.create_connection((args.host, args.port))
    with socket.create_server((args.host, args.port)) as listener:
        return listener.accept()[0]


def polled(s):
    poll = select.poll()
    poll.register(s, WANTED)
    return [name for name in NAMES for _, events in poll.poll(0) if events & getattr(select, name)]


def epolled(s):
    with select.epoll() as epoll:
        epoll.register(s, WANTED)  # the numbers are those of poll
        return [name for name in NAMES for _, events in epoll.poll(0) if events & getattr(select, name)]


def selected(s):
    return [bool(ready) for ready in select.select([s], [s], [s], 0)]


def reads(s):
    sizes = []
    while not sizes or (isinstance(sizes[-1], int) and sizes[-1] > 0):
        sizes.append(result(lambda: len(s.recv(1 << 20))))
    return [sum(n for n in sizes if isinstance(n, int)), sizes[-1]]


def await_end(s):
    poll = select.poll()
    poll.register(s, select.POLLRDHUP)
    poll.poll(10_000)


s = connection()
if args.says:
    s.sendall(args.says.encode())
await_end(s)
shown = {}
if args.reads:
    shown["read first"] = reads(s)
time.sleep(args.delay)
shown["poll"] = polled(s)
shown["epoll"] = epolled(s)
shown["select"] = selected(s)
shown["getpeername"] = result(lambda: bool(s.getpeername()))
shown["getsockname"] = result(lambda: bool(s.getsockname()))
shown["SO_ERROR"] = errno.errorcode.get(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "none")
shown["read"] = reads(s)
shown["poll after read"] = polled(s)
shown["shutdown"] = result(s.shutdown, socket.SHUT_WR)
time.sleep(0.2)
shown["poll after shutdown"] = polled(s)
shown["SO_ERROR after shutdown"] = errno.errorcode.get(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "none")
print(json.dumps(shown))
