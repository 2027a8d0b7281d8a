package sourceaddr

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// interfaces returns the link of each address of a family.
func interfaces(ipv4 bool) (map[netip.Addr]link, error) {
	if ipv4 {
		return interfaces4()
	}
	return interfaces6()
}

// ifreq is struct ifreq of <linux/if.h> with an IPv4 address in it: 40 bytes, or 32 on a 32-bit
// system.
type ifreq struct {
	name [unix.IFNAMSIZ]byte
	_    [4]byte // family and port
	addr [4]byte
	_    [2 * unsafe.Sizeof(uintptr(0))]byte
}

// ifconf is struct ifconf.
type ifconf struct {
	size int32
	reqs *ifreq
}

// maxAddrs is more IPv4 addresses than a host has.
const maxAddrs = 4096

// interfaces4 asks by SIOCGIFCONF. It names a second address of an interface by its label, which
// is the interface's name and perhaps a colon and more.
func interfaces4() (map[netip.Addr]link, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd) // nothing was sent
	reqs := make([]ifreq, maxAddrs)
	size := int32(unsafe.Sizeof(reqs[0]))
	conf := ifconf{size: maxAddrs * size, reqs: &reqs[0]}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGIFCONF, uintptr(unsafe.Pointer(&conf))); errno != 0 {
		return nil, os.NewSyscallError("ioctl", errno)
	}
	all := make(map[netip.Addr]link)
	for _, r := range reqs[:conf.size/size] {
		addr := netip.AddrFrom4(r.addr)
		name, _, _ := strings.Cut(unix.ByteSliceToString(r.name[:]), ":")
		bits, err := prefixLength(fd, r)
		if err != nil {
			continue // the address has just left the host
		}
		all[addr] = link{name, bits}
	}
	return all, nil
}

// prefixLength asks by SIOCGIFNETMASK, which looks at the address in r as well as at the name.
func prefixLength(fd int, r ifreq) (int, error) {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGIFNETMASK, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return 0, os.NewSyscallError("ioctl", errno)
	}
	bits, _ := net.IPMask(r.addr[:]).Size()
	return bits, nil
}

// interfaces6 reads /proc/net/if_inet6: address, index, length of the prefix, scope, flags, name.
func interfaces6() (map[netip.Addr]link, error) {
	f, err := os.Open("/proc/thread-self/net/if_inet6")
	if err != nil {
		return nil, err
	}
	defer f.Close() // it was only read
	all := make(map[netip.Addr]link)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 6 {
			return nil, fmt.Errorf("if_inet6: %q", lines.Text())
		}
		ip, err := hex.DecodeString(fields[0])
		if err != nil {
			return nil, err
		}
		bits, err := strconv.ParseUint(fields[2], 16, 8)
		if err != nil {
			return nil, err
		}
		if addr, ok := netip.AddrFromSlice(ip); ok {
			all[addr] = link{fields[5], int(bits)}
		}
	}
	return all, lines.Err()
}
