// Package reuseport is a TCP transport that dials from the port it listens on.
//
// A [Transport] keeps track of its listeners. When it dials, it binds the local
// end to the port of a listener that fits the target, so that a NAT keeps one
// mapping for everything the host does, peers see the address at which it can be
// reached, and holes can be punched. It takes multiaddrs, as go-libp2p does, or
// networks and addresses, as package net does.
//
// # Exclusive listening
//
// Listening on a port that has a listener fails with EADDRINUSE, whatever options the other
// one used. Of two processes that start at once exactly one succeeds. The socket gets
// SO_REUSEPORT only after listen, for the sake of our own dials. From then on a process of
// the same user can bind the port with SO_REUSEPORT and listen; other users never can.
//
// On Linux such a joiner gets no connection, because a reuseport program sends all of them
// to the first socket. There are two exceptions: a joiner that attaches a program of its
// own, and one that listens on a more specific address than ours, such as 127.0.0.1 beside
// 0.0.0.0, and so gets all connections to that address. When our listener closes, a joiner
// that is still there inherits what comes later. On other systems a joiner gets what the
// kernel gives it.
//
// Where a Transport listens on a specific address and on the wildcard of one port, the
// second socket has to bind with SO_REUSEPORT itself. It then does not notice a stranger of
// the same user who already listens there in that way, and who keeps the connections to
// that address.
//
// # Closing
//
// Connections that use a listening port have SO_LINGER 0: if the process dies, the 4-tuple
// is free at once. [Conn.Close] turns that off: to the peer it is package net's close,
// without the resets that unread data causes there. The 4-tuple is freed when a dial needs
// it. [Conn.Abort] resets. docs/close.md has what each peer sees, and what it costs.
package reuseport
