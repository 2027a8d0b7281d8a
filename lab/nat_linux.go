package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The range of ports that PortShifting maps to.
const (
	firstShifted = 20000
	lastShifted  = 29999
)

// Registers of nftables' virtual machine. Each has 4 bytes; an address takes four of
// them in IPv6. The key is in the last register, the address in the first, and the
// port follows it.
const (
	regKey  = unix.NFT_REG32_15
	regAddr = unix.NFT_REG32_00
)

// table is one IP family's table of a border, while it is being filled.
type table struct {
	border
	conn  *nftables.Conn
	table *nftables.Table
	ipv6  bool
}

// guard installs the host's NAT or firewall for both families.
func (n *node) guard() error {
	b, ok := borderOf(n.host)
	if !ok {
		return nil
	}
	return n.in(func() error { return install(b) })
}

// install fills the tables of the calling thread's namespace.
func install(b border) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	for _, ipv6 := range []bool{false, true} {
		t := &table{border: b, conn: conn, ipv6: ipv6}
		t.table = conn.AddTable(&nftables.Table{Family: t.family(), Name: "border"})
		if err := t.fill(); err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

func (t *table) family() nftables.TableFamily {
	if t.ipv6 {
		return nftables.TableFamilyIPv6
	}
	return nftables.TableFamilyIPv4
}

// fill writes the rules for packets to the border itself and through it, and for a
// NAT those for packets that leave.
func (t *table) fill() error {
	for name, hook := range map[string]*nftables.ChainHook{
		"input": nftables.ChainHookInput, "forward": nftables.ChainHookForward,
	} {
		t.filter(t.chain(name, nftables.ChainTypeFilter, hook, nftables.ChainPriorityFilter))
	}
	if t.nat == nil {
		return nil
	}
	// Old kernels translate replies only if both sides have a chain, even an empty
	// one.
	out := t.chain("out", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	in := t.chain("in", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	t.translate(out)
	if t.nat.Filtering == FilterNone {
		return t.openMappings(in)
	}
	return nil
}

func (t *table) chain(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
	return t.conn.AddChain(&nftables.Chain{Name: name, Table: t.table, Type: kind, Hooknum: hook, Priority: prio})
}

func (t *table) rule(c *nftables.Chain, parts ...[]expr.Any) {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: c, Exprs: all})
}

// filter lets in replies, packets that an open mapping admits, and ICMP. Invalid
// packets are dropped first and silently: one may be half of a simultaneous open, and
// a RST would end the mapping at the other side.
func (t *table) filter(c *nftables.Chain) {
	t.rule(c, ctState(expr.CtStateBitINVALID), verdict(expr.VerdictDrop))
	t.rule(c, ctState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept))
	t.rule(c, ctStatusDNAT(), verdict(expr.VerdictAccept))
	t.rule(c, l4proto(t.icmp()), verdict(expr.VerdictAccept))
	if t.unsolicited == Reset {
		t.rule(c, t.enters(), l4proto(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	}
	t.rule(c, t.enters(), verdict(expr.VerdictDrop))
}

func (t *table) icmp() byte {
	if t.ipv6 {
		return unix.IPPROTO_ICMPV6
	}
	return unix.IPPROTO_ICMP
}

// translate maps the source of packets that leave.
func (t *table) translate(out *nftables.Chain) {
	switch t.nat.Mapping {
	case PortPreserving:
		t.rule(out, t.leaves(), []expr.Any{&expr.Masq{}})
	case AddressAndPortDependent:
		t.rule(out, t.leaves(), []expr.Any{&expr.Masq{FullyRandom: true}})
	case PortShifting:
		t.shift(out)
	}
}

// shift translates to the first outside address, on a port of the range. It uses a
// source NAT because the nftables package cannot express a masquerade with a port
// range.
func (t *table) shift(out *nftables.Chain) {
	i := slices.IndexFunc(t.addrs, func(p netip.Prefix) bool { return p.Addr().Is6() == t.ipv6 })
	if i < 0 {
		return // the border has no address of this family
	}
	t.rule(out, t.leaves(), []expr.Any{
		&expr.Immediate{Register: unix.NFT_REG_1, Data: t.addrs[i].Addr().AsSlice()},
		&expr.Immediate{Register: unix.NFT_REG_2, Data: port16(firstShifted)},
		&expr.Immediate{Register: unix.NFT_REG_3, Data: port16(lastShifted)},
		&expr.NAT{
			Type: expr.NATTypeSourceNAT, Family: t.proto(), Specified: true,
			RegAddrMin: unix.NFT_REG_1, RegProtoMin: unix.NFT_REG_2, RegProtoMax: unix.NFT_REG_3,
		},
	})
}

func (t *table) proto() uint32 {
	if t.ipv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

func port16(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }

// openMappings makes filtering endpoint-independent. It keeps a map from outside port
// to inside address and port. Packets that leave fill the map after their
// translation, and all packets that enter are looked up in it.
func (t *table) openMappings(in *nftables.Chain) error {
	for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		set, err := t.addMap(proto)
		if err != nil {
			return err
		}
		after := nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource + 10)
		learn := t.chain("learn"+set.Name, nftables.ChainTypeFilter, nftables.ChainHookPostrouting, after)
		t.rule(learn, t.leaves(), ctState(expr.CtStateBitNEW), l4proto(proto), t.learn(set))
		t.rule(in, t.enters(), l4proto(proto), t.apply(set))
	}
	return nil
}

func (t *table) addMap(proto byte) (*nftables.Set, error) {
	addr := nftables.TypeIPAddr
	if t.ipv6 {
		addr = nftables.TypeIP6Addr
	}
	inside, err := nftables.ConcatSetType(addr, nftables.TypeInetService)
	if err != nil {
		return nil, err
	}
	set := &nftables.Set{
		Table: t.table, Name: fmt.Sprintf("proto%d", proto), IsMap: true, Dynamic: true, Size: 1 << 16,
		KeyType: nftables.TypeInetService, DataType: inside,
	}
	return set, t.conn.AddSet(set, nil)
}

// learn stores outside port -> inside address and port. Connection tracking still
// knows the original source.
func (t *table) learn(set *nftables.Set) []expr.Any {
	return []expr.Any{
		loadPort(regKey, 0),
		&expr.Ct{Key: expr.CtKeySRC, Register: regAddr},
		&expr.Ct{Key: expr.CtKeyPROTOSRC, Register: t.regPort()},
		&expr.Dynset{
			SrcRegKey: regKey, SrcRegData: regAddr, SetName: set.Name, SetID: set.ID,
			Operation: unix.NFT_DYNSET_OP_UPDATE,
		},
	}
}

func (t *table) apply(set *nftables.Set) []expr.Any {
	return []expr.Any{
		loadPort(regKey, 2),
		&expr.Lookup{SourceRegister: regKey, DestRegister: regAddr, IsDestRegSet: true, SetName: set.Name, SetID: set.ID},
		&expr.NAT{
			Type: expr.NATTypeDestNAT, Family: t.proto(), Specified: true,
			RegAddrMin: regAddr, RegProtoMin: t.regPort(),
		},
	}
}

// regPort returns the register that follows the address.
func (t *table) regPort() uint32 {
	if t.ipv6 {
		return regAddr + 4
	}
	return regAddr + 1
}

// loadPort loads the source port (offset 0) or the destination port (offset 2).
func loadPort(reg, offset uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2}
}

func (t *table) leaves() []expr.Any { return ifname(expr.MetaKeyOIFNAME, t.outside) }
func (t *table) enters() []expr.Any { return ifname(expr.MetaKeyIIFNAME, t.outside) }

func ifname(key expr.MetaKey, name string) []expr.Any {
	data := make([]byte, unix.IFNAMSIZ)
	copy(data, name)
	return []expr.Any{
		&expr.Meta{Key: key, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: data},
	}
}

func l4proto(proto byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{proto}},
	}
}

func ctState(bits uint32) []expr.Any { return ctBits(expr.CtKeySTATE, bits) }

// ctStatusDNAT matches packets that an open mapping admitted: IPS_DST_NAT is bit 5 of
// the status.
func ctStatusDNAT() []expr.Any { return ctBits(expr.CtKeySTATUS, 1<<5) }

func ctBits(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: unix.NFT_REG_1},
		&expr.Bitwise{
			SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4,
			Mask: binary.NativeEndian.AppendUint32(nil, bits), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: unix.NFT_REG_1, Data: make([]byte, 4)},
	}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }
