package lab

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// tcpFrame is an Ethernet frame with a SYN and four bytes of payload.
func tcpFrame(src, dst netip.AddrPort) []byte {
	tcp := binary.BigEndian.AppendUint16(nil, src.Port())
	tcp = binary.BigEndian.AppendUint16(tcp, dst.Port())
	tcp = append(tcp, 0, 0, 0, 7, 0, 0, 0, 9, 5<<4, byte(SYN), 0, 0, 0, 0, 0, 0, 'd', 'a', 't', 'a')
	frame := make([]byte, 12)
	if src.Addr().Is4() {
		frame = append(frame, 0x08, 0x00, 0x45, 0, 0, byte(20+len(tcp)), 0, 0, 0, 0, 64, protoTCP, 0, 0)
	} else {
		frame = append(frame, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(tcp)), protoTCP, 64)
	}
	frame = append(append(frame, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
	return append(frame, tcp...)
}

func TestParseFrame(t *testing.T) {
	for _, addrs := range [][2]string{
		{"192.0.0.80:4001", "192.0.0.81:7001"},
		{"[fd00::80]:4001", "[fd00::81]:7001"},
	} {
		src, dst := netip.MustParseAddrPort(addrs[0]), netip.MustParseAddrPort(addrs[1])
		frame := tcpFrame(src, dst)
		p, ok := parseFrame(append(frame, 0, 0)) // Ethernet pads short frames
		want := Packet{Proto: protoTCP, Src: src, Dst: dst, Flags: SYN, Seq: 7, Ack: 9, Len: 4}
		if !ok || p != want {
			t.Errorf("got %+v, %v, want %+v", p, ok, want)
		}
		for n := range frame {
			if p, _ := parseFrame(frame[:n]); p.IsSYN() && n < len(frame)-4 {
				t.Errorf("the first %d bytes are a SYN: %v", n, p)
			}
		}
	}
}

func TestMatch(t *testing.T) {
	p, _ := parseFrame(tcpFrame(netip.MustParseAddrPort("192.0.0.80:4001"), netip.MustParseAddrPort("192.0.0.81:7001")))
	for m, want := range map[Match]bool{
		{}:                                      true,
		{SYN: true}:                             true,
		{SrcPort: 4001, DstPort: 7001}:          true,
		{SrcPort: 7001}:                         false,
		{DstPort: 4001}:                         false,
		{Src: "192.0.0.80"}:                     true,
		{Src: "192.0.0.81"}:                     false,
		{Dst: "192.0.0.80/31"}:                  true,
		{Dst: "192.0.0.82/31"}:                  false,
		{Src: "192.0.0.80", Dst: "192.0.0.80"}:  false,
		{SYN: true, Src: "fd00::/8"}:            false,
		{SYN: true, SrcPort: 4001, DstPort: 80}: false,
	} {
		ms, err := parseMatches([]Match{m})
		if err != nil {
			t.Fatal(err)
		}
		if got := ms[0].match(p); got != want {
			t.Errorf("%+v matches %v: %v, want %v", m, p, got, want)
		}
	}
	p.Flags |= ACK
	if ms, _ := parseMatches([]Match{{SYN: true}}); ms[0].match(p) {
		t.Error("a SYN-ACK matches as SYN")
	}
}

// Whatever a frame contains, parsing ends without a panic, and only TCP and UDP have
// ports.
func FuzzParseFrame(f *testing.F) {
	f.Add(tcpFrame(netip.MustParseAddrPort("192.0.0.80:4001"), netip.MustParseAddrPort("192.0.0.81:7001")))
	f.Add(tcpFrame(netip.MustParseAddrPort("[fd00::80]:4001"), netip.MustParseAddrPort("[fd00::81]:7001")))
	f.Fuzz(func(t *testing.T, frame []byte) {
		p, ok := parseFrame(frame)
		if !ok && p != (Packet{}) {
			t.Errorf("not traffic, but %+v", p)
		}
		if ok && !p.Src.Addr().IsValid() {
			t.Errorf("no source in %+v", p)
		}
		if p.Len < 0 || p.Len > len(frame) {
			t.Errorf("length %d in a frame of %d", p.Len, len(frame))
		}
		if p.Proto != protoTCP && p.Proto != protoUDP && p.Src.Port() != 0 {
			t.Errorf("a port without TCP or UDP: %+v", p)
		}
	})
}
