"""Connects, reads to the end and copies all of it to standard output."""
import argparse
import socket
import ssl
import sys
import time

p = argparse.ArgumentParser()
p.add_argument("host")
p.add_argument("port", type=int)
p.add_argument("--after", type=float, default=0, help="seconds before the first read")
p.add_argument("--piece", type=int, default=65536, help="bytes of one read, at most")
p.add_argument("--rate", type=float, default=0, help="bytes a second; 0 = all there are")
p.add_argument("--says", default="", help="what to send first")
p.add_argument("--tls", action="store_true")
p.add_argument("--multipath", action="store_true")
args = p.parse_args()

IPPROTO_MPTCP = 262
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP if args.multipath else 0)
s.connect((args.host, args.port))
if args.tls:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    s = context.wrap_socket(s)
if args.says:
    s.sendall(args.says.encode())
time.sleep(args.after)
while True:
    piece = s.recv(args.piece)
    if not piece:
        break
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
    if args.rate:
        time.sleep(len(piece) / args.rate)
