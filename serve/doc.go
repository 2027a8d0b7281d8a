// Package serve runs the servers behind a listener: a bound on the connections
// held, accept errors that do not end it, two kinds of shutdown, and connections
// that cost no goroutine while nothing is to be read. It works with any
// net.Listener; manet.NetListener makes one of a reuseport.Transport's.
//
// It is not for servers that net/http or another library runs well already:
// [RetryAccept] alone makes those outlive a lack of descriptors.
//
// # Connections
//
// [Server.Serve] takes a slot (Server.MaxConns), accepts, and calls the
// [Handler] on a goroutine with what Accept returned. Surplus clients wait in the
// kernel's accept queue. The handler returns nil to end the connection, or the
// Handler to call when there is something to read: then the connection is parked.
//
// A parked connection belongs to the server, costs about 200 bytes beside the
// connection itself, and holds its slot. It leaves in one of these ways, and
// just one:
//
//   - the peer sent data, its FIN or a reset: the next Handler is called;
//   - IdleTimeout has passed: it is closed;
//   - somebody else closed it: its slot is free within five seconds (at once
//     where a goroutine waits);
//   - Shutdown: if data waits, or the connection is new, the next Handler is
//     called, else it is closed;
//   - Close: it is cut.
//
// On Linux one goroutine and an epoll set (one-shot interest, nested in the
// runtime's own) watch all parked connections; the set takes one descriptor. If
// it cannot be made, and on other systems, a goroutine waits for each, with the
// same results. All deadlines are on one timer.
//
// # Rolling restarts
//
// Closing a listener resets the connections that wait in its accept queue. To
// lose none when one process takes over from another, the socket itself must stay
// open:
//
//   - Hand it over. The processes inherit descriptors of one socket (os/exec's
//     ExtraFiles, socket activation), and the old one's Shutdown closes but its
//     own. This needs no privilege; examples/rolling does it, with a socket per
//     process on a shared port (reuseport.Transport.Shared), between which the
//     kernel spreads connections.
//   - Or let the kernel move the waiting connections to another socket on the
//     same port: net.ipv4.tcp_migrate_req=1 (Linux 5.14, off by default, root).
//
// Without either, stopping one of several processes on a port loses what waits
// in its queue.
package serve
