// Package serve runs a server behind a listener. It bounds the number of connections,
// survives accept errors, shuts down in two ways, and parks idle connections so that
// they cost no goroutine. It works with any net.Listener; manet.NetListener turns a
// listener of a reuseport.Transport into one.
//
// It is not for servers that net/http or another library already runs well:
// [RetryAccept] alone keeps those running when the process is out of descriptors.
//
// # Connections
//
// [Server.Serve] takes a slot (Server.MaxConns), accepts a connection, and passes it
// unchanged to the [Handler] on a new goroutine. Clients without a slot wait in the
// kernel's accept queue. The handler returns nil to end the connection, or the
// Handler to call when there is something to read; the connection is then parked.
//
// A parked connection belongs to the server, costs about 200 bytes on top of the
// connection itself, and holds its slot. Exactly one of these ends its stay:
//
//   - The peer sends data, its FIN or a reset: the next Handler is called.
//   - IdleTimeout passes: the connection is closed.
//   - Other code closes the connection: its slot is free within five seconds (at once
//     where a goroutine waits for it).
//   - Shutdown: if data waits, or the connection has been parked since it was accepted
//     less than five seconds ago, the next Handler is called; otherwise the connection
//     is closed.
//   - Close: the connection is cut.
//
// On Linux one goroutine with one epoll set watches all parked connections. The set
// takes one descriptor. If it cannot be made, and on other systems, one goroutine
// waits for each connection, with the same results. One timer serves all deadlines.
//
// # TLS
//
// A tls.Conn cannot be parked: it may have taken the next request from the socket
// already, and only its Read tells. The same holds for every connection that is not a
// syscall.Conn. Its next Handler is called at once and waits in its own Read.
//
// IdleTimeout and Shutdown end such a wait too. If nothing has come on the socket since
// the call, they close the socket for reading: Read returns io.EOF, and the handler ends
// as if the client had closed. Writing still works, so that a request that was taken from
// the socket before the call is answered. The server reaches the socket by the method
// NetConn, which tls.Conn has, and asks the kernel what has come. That works for TCP on
// Linux. On other systems, for multipath TCP and for connections without NetConn,
// IdleTimeout is a read deadline that the handler is called with and may change, and
// Shutdown waits for the handler.
//
// # Rolling restarts
//
// Closing a listener resets the connections in its accept queue. To replace one
// process by another without losing any of them, keep the socket itself open:
//
//   - Pass the socket on. Both processes hold a descriptor of one socket (os/exec's
//     ExtraFiles, socket activation), and Shutdown of the old process closes only its
//     own. This needs no privilege. examples/rolling does it, with one socket per
//     process, all on one port (reuseport.Transport.Shared); the kernel spreads
//     connections over them.
//   - Or let the kernel move waiting connections to another socket on the same port:
//     net.ipv4.tcp_migrate_req=1 (Linux 5.14, off by default, needs root).
//
// Without either, stopping one of several processes on a port loses the connections
// in its queue.
package serve
