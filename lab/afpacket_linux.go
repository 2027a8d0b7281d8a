package lab

import (
	"encoding/binary"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// vnetHdrLen is the size of struct virtio_net_hdr, which PACKET_VNET_HDR puts
	// before each frame. With it a checksum that the sender left to its network card
	// crosses the wire unfinished, so no offload has to be turned off.
	vnetHdrLen = 10

	// maxFrame is the largest frame read: a link header and an IP packet.
	maxFrame = etherLen + 1<<16

	// portBuffer is the buffer size requested for each packet socket. The kernel
	// grants what net.core.rmem_max allows.
	portBuffer = 4 << 20
)

// openPort brings the interface up and opens a packet socket on it.
func openPort(name string) (*os.File, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(l); err != nil { // a socket that is bound earlier reports ENETDOWN
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), name)
	if err := setPort(fd, l.Attrs().Index); err != nil {
		_ = file.Close() // nothing was sent
		return nil, err
	}
	return file, nil
}

func setPort(fd, ifindex int) error {
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1},
		{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1},
		{unix.SOL_SOCKET, unix.SO_RCVBUF, portBuffer},
		{unix.SOL_SOCKET, unix.SO_SNDBUF, portBuffer},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	addr := &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: ifindex}
	return os.NewSyscallError("bind", unix.Bind(fd, addr))
}

func networkOrder(v uint16) uint16 {
	return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, v))
}
