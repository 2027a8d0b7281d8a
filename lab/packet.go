package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Packet is one packet as a wire saw it.
type Packet struct {
	At   time.Time // when the wire took it
	Out  time.Time // when the wire delivered it; zero = never, or not yet
	From string    // host that sent it
	To   string    // host it was delivered to; empty = all

	Proto    uint8          // IP protocol: 6 = TCP, 17 = UDP
	Src, Dst netip.AddrPort // ports are zero unless TCP or UDP
	Flags    TCPFlags       // zero unless TCP
	Seq, Ack uint32         // zero unless TCP
	Len      int            // bytes of payload above TCP or UDP

	Lost    bool // to Wire.Loss
	Dropped bool // by Wire.Drop
}

// TCPFlags are the flags of a TCP segment, RFC 9293 section 3.1.
type TCPFlags uint8

// The flags that this package names.
const (
	FIN TCPFlags = 1 << iota
	SYN
	RST
	PSH
	ACK
)

func (f TCPFlags) String() string {
	var set []string
	for i, name := range []string{"FIN", "SYN", "RST", "PSH", "ACK"} {
		if f&(1<<i) != 0 {
			set = append(set, name)
		}
	}
	return strings.Join(set, ",")
}

// IsSYN reports whether the packet opens a connection: SYN without ACK.
func (p Packet) IsSYN() bool { return p.Flags&(SYN|ACK) == SYN }

func (p Packet) String() string {
	fate := "to " + p.To
	switch {
	case p.Lost:
		fate = "lost"
	case p.Dropped:
		fate = "dropped"
	}
	return fmt.Sprintf("%s %s > %s %v len %d %s", p.From, p.Src, p.Dst, p.Flags, p.Len, fate)
}

// Ethernet and IP numbers that parseFrame knows, from the IANA registries.
const (
	etherLen  = 14
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd

	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
	hopByHop    = 0 // IPv6 extension header in front of MLD reports
)

// parseFrame reads the addresses, ports and flags of an Ethernet frame. It returns
// false for frames that tests are not about (ARP, neighbour discovery, multicast
// listener reports), and for frames that do not parse.
func parseFrame(frame []byte) (Packet, bool) {
	if len(frame) < etherLen {
		return Packet{}, false
	}
	switch body := frame[etherLen:]; binary.BigEndian.Uint16(frame[12:]) {
	case etherIPv4:
		return parseIPv4(body)
	case etherIPv6:
		return parseIPv6(body)
	}
	return Packet{}, false
}

func parseIPv4(b []byte) (Packet, bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return Packet{}, false
	}
	head, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if head < 20 || len(b) < head || total < head {
		return Packet{}, false
	}
	p := Packet{Proto: b[9], Src: hostOnly(b[12:16]), Dst: hostOnly(b[16:20])}
	return parseTransport(p, b[head:min(total, len(b))]), true
}

func parseIPv6(b []byte) (Packet, bool) {
	if len(b) < 40 || b[0]>>4 != 6 {
		return Packet{}, false
	}
	p := Packet{Proto: b[6], Src: hostOnly(b[8:24]), Dst: hostOnly(b[24:40])}
	body := b[40:min(40+int(binary.BigEndian.Uint16(b[4:])), len(b))]
	if p.Proto == hopByHop || p.Proto == protoICMPv6 && isNeighbour(body) {
		return Packet{}, false
	}
	return parseTransport(p, body), true
}

// isNeighbour reports whether an ICMPv6 packet is neighbour discovery (RFC 4861,
// types 133 to 137) or an MLDv2 report (RFC 3810, type 143), and not part of the
// traffic.
func isNeighbour(icmp []byte) bool {
	return len(icmp) > 0 && (icmp[0] >= 133 && icmp[0] <= 137 || icmp[0] == 143)
}

// parseTransport adds ports and flags if b holds them. A fragment or a truncated
// header has none.
func parseTransport(p Packet, b []byte) Packet {
	switch {
	case p.Proto == protoTCP && len(b) >= 20:
		p.Flags = TCPFlags(b[13])
		p.Seq, p.Ack = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
		p.Len = max(0, len(b)-int(b[12]>>4)*4)
	case p.Proto == protoUDP && len(b) >= 8:
		p.Len = len(b) - 8
	default:
		return p
	}
	p.Src = netip.AddrPortFrom(p.Src.Addr(), binary.BigEndian.Uint16(b))
	p.Dst = netip.AddrPortFrom(p.Dst.Addr(), binary.BigEndian.Uint16(b[2:]))
	return p
}

func hostOnly(b []byte) netip.AddrPort {
	a, _ := netip.AddrFromSlice(b) // b has 4 or 16 bytes
	return netip.AddrPortFrom(a, 0)
}

// matcher is a Match with parsed prefixes. An invalid prefix matches any address.
type matcher struct {
	Match
	src, dst netip.Prefix
}

func parseMatches(ms []Match) ([]matcher, error) {
	all := make([]matcher, len(ms))
	for i, m := range ms {
		src, err := parsePrefixOrAny(m.Src)
		if err != nil {
			return nil, err
		}
		dst, err := parsePrefixOrAny(m.Dst)
		if err != nil {
			return nil, err
		}
		all[i] = matcher{m, src, dst}
	}
	return all, nil
}

// parsePrefixOrAny is parsePrefixOrAddr, but returns the zero Prefix for an empty
// string, which stands for any address.
func parsePrefixOrAny(s string) (netip.Prefix, error) {
	if s == "" {
		return netip.Prefix{}, nil
	}
	return parsePrefixOrAddr(s)
}

func (m matcher) match(p Packet) bool {
	return (!m.SYN || p.IsSYN()) &&
		(!m.src.IsValid() || m.src.Contains(p.Src.Addr())) &&
		(!m.dst.IsValid() || m.dst.Contains(p.Dst.Addr())) &&
		(m.SrcPort == 0 || m.SrcPort == p.Src.Port()) &&
		(m.DstPort == 0 || m.DstPort == p.Dst.Port())
}
