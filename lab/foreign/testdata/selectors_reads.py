"""Reads to the end with a selector, as an event loop does, and copies all of it to
standard output."""
import selectors
import socket
import sys

kind = getattr(selectors, sys.argv[3])
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
s.setblocking(False)
with kind() as selector:
    selector.register(s, selectors.EVENT_READ)
    while True:
        selector.select()
        piece = s.recv(4096)
        if not piece:
            break
        sys.stdout.buffer.write(piece)
