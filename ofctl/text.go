package ofctl

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// String is the action as ovs-ofctl takes it, for example "output:3".
func (a Output) String() string {
	switch {
	case a.Port == PortController:
		return "CONTROLLER:" + strconv.Itoa(int(a.MaxLen))
	case a.Port >= PortInPort:
		return portName(a.Port)
	}
	return "output:" + strconv.FormatUint(uint64(a.Port), 10)
}

// portName is ovs-ofctl's name of a port.
func portName(p uint32) string {
	switch p {
	case PortInPort:
		return "IN_PORT"
	case PortTable:
		return "TABLE"
	case PortNormal:
		return "NORMAL"
	case PortFlood:
		return "FLOOD"
	case PortAll:
		return "ALL"
	case PortController:
		return "CONTROLLER"
	case PortLocal:
		return "LOCAL"
	case PortAny:
		return "ANY"
	}
	return strconv.FormatUint(uint64(p), 10)
}

// String is the action as ovs-ofctl takes it, for example "group:1".
func (a ToGroup) String() string { return "group:" + strconv.FormatUint(uint64(a.ID), 10) }

// String is the action as ovs-ofctl takes it, for example "set_queue:3".
func (a SetQueue) String() string { return "set_queue:" + strconv.FormatUint(uint64(a.ID), 10) }

// String is the action as ovs-ofctl takes it, for example
// "set_field:10.0.0.1->ip_src".
func (a SetField) String() string {
	return "set_field:" + a.Field.valueText() + "->" + a.Field.kind.String()
}

// String is "push_vlan:0x8100".
func (PushVLAN) String() string { return "push_vlan:0x8100" }

// String is "pop_vlan".
func (PopVLAN) String() string { return "pop_vlan" }

// String is "dec_ttl".
func (DecTTL) String() string { return "dec_ttl" }

// String is the action as ovs-ofctl takes it, for example
// "learn(table=20,delete_learned,cookie=0x5eed)".
func (a Tether) String() string {
	s := "learn(table=" + strconv.Itoa(int(a.Table)) + ",delete_learned"
	if a.Cookie != 0 {
		s += ",cookie=0x" + strconv.FormatUint(a.Cookie, 16)
	}
	return s + ")"
}

// number is f's value or mask as an integer, for fields of up to 8 bytes.
func (f Field) number(b [16]byte) uint64 {
	var full [8]byte
	w := min(f.kind.Width(), 8)
	copy(full[8-w:], b[:w])
	return binary.BigEndian.Uint64(full[:])
}

// valueText is f's value in the form that its kind is written in.
func (f Field) valueText() string { return f.bytesText(f.value) }

func (f Field) bytesText(b [16]byte) string {
	switch f.kind {
	case KindInPort:
		return portName(uint32(f.number(b)))
	case KindEthSrc, KindEthDst, KindARPSHA, KindARPTHA, KindNDSLL, KindNDTLL:
		return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5])
	case KindIPv4Src, KindIPv4Dst, KindARPSPA, KindARPTPA:
		return netip.AddrFrom4([4]byte(b[:4])).String()
	case KindIPv6Src, KindIPv6Dst, KindNDTarget:
		return netip.AddrFrom16(b).String()
	case KindMetadata, KindTunnelID, KindEthType, KindIPv6Label:
		return "0x" + strconv.FormatUint(f.number(b), 16)
	}
	return strconv.FormatUint(f.number(b), 10)
}

// String is the field as it stands in a match of ovs-ofctl, for example
// "nw_src=10.0.0.0/8". A field without a kind prints as "".
func (f Field) String() string {
	fi := f.kind.info()
	if fi.bits == 0 {
		return ""
	}
	v := f.number(f.value)
	switch f.kind {
	case KindVLAN:
		return f.vlanText(uint16(v))
	case KindIPDSCP:
		return "nw_tos=" + strconv.FormatUint(v<<2, 10)
	case KindFrag:
		return "nw_frag=" + f.fragText()
	case KindIPv6Label:
		v := fmt.Sprintf("%s=0x%05x", fi.match, v)
		if f.masked {
			v += fmt.Sprintf("/0x%05x", f.number(f.mask))
		}
		return v
	case KindTCPSrc, KindTCPDst, KindUDPSrc, KindUDPDst, KindSCTPSrc, KindSCTPDst:
		if f.masked {
			return fmt.Sprintf("%s=0x%x/0x%x", fi.match, v, f.number(f.mask))
		}
	}
	return fi.match + "=" + f.valueText() + f.maskText()
}

// vlanText prints the forms that ovs-ofctl uses for a VLAN match.
func (f Field) vlanText(v uint16) string {
	if !f.masked && v&0x1000 != 0 {
		return "dl_vlan=" + strconv.Itoa(int(v&0xfff))
	}
	mask := uint16(0x1fff)
	if f.masked {
		mask = uint16(f.number(f.mask))
	}
	return fmt.Sprintf("vlan_tci=0x%04x/0x%04x", v, mask)
}

// fragText is the word for the two fragment bits and their mask.
func (f Field) fragText() string {
	mask := byte(3)
	if f.masked {
		mask = f.mask[0] & 3
	}
	switch {
	case mask == 3 && f.value[0] == 0, mask == 1 && f.value[0] == 0:
		return "no"
	case mask == 1:
		return "yes"
	case mask == 3 && f.value[0] == 1:
		return "first"
	case mask == 3 && f.value[0] == 3, mask == 2 && f.value[0] == 2:
		return "later"
	case mask == 2:
		return "not_later"
	}
	return fmt.Sprintf("0x%x/0x%x", f.value[0], mask)
}

// maskText is "/" and the mask, or nothing when f is exact.
func (f Field) maskText() string {
	if !f.masked {
		return ""
	}
	switch f.kind {
	case KindIPv4Src, KindIPv4Dst, KindARPSPA, KindARPTPA, KindIPv6Src, KindIPv6Dst, KindNDTarget:
		if n, ok := prefixLen(f.mask[:f.kind.Width()]); ok {
			return "/" + strconv.Itoa(n)
		}
	}
	return "/" + f.bytesText(f.mask)
}

// prefixLen is the length of mask's leading ones; ok is false if a one follows.
func prefixLen(mask []byte) (n int, ok bool) {
	for n < len(mask)*8 && mask[n/8]&(0x80>>(n%8)) != 0 {
		n++
	}
	for i := n; i < len(mask)*8; i++ {
		if mask[i/8]&(0x80>>(i%8)) != 0 {
			return 0, false
		}
	}
	return n, true
}

// String is the match as ovs-ofctl prints it, for example
// "tcp,in_port=3,nw_src=10.0.0.1,tp_dst=80"; "" matches everything.
func (m Match) String() string { return strings.Join(m.words(), ",") }

func (m Match) words() []string {
	c := m.Canonical()
	words := make([]string, 0, len(c))
	short, proto := c.protocolWord()
	if short != "" {
		words = append(words, short)
	}
	for _, f := range c {
		if short != "" && (f.kind == KindEthType || proto && f.kind == KindIPProto) {
			continue
		}
		words = append(words, f.String())
	}
	return words
}

// protocolWord is ovs-ofctl's short word for m's EtherType, and for its IP protocol
// too when proto is set.
func (m Match) protocolWord() (word string, proto bool) {
	var v6 string
	switch {
	case m.has(prerequisite{kind: KindEthType, value: 0x0806}):
		return "arp", false
	case m.has(prerequisite{kind: KindEthType, value: 0x0800}):
	case m.has(prerequisite{kind: KindEthType, value: 0x86dd}):
		v6 = "6"
	default:
		return "", false
	}
	switch {
	case m.has(prerequisite{kind: KindIPProto, value: 6}):
		return "tcp" + v6, true
	case m.has(prerequisite{kind: KindIPProto, value: 17}):
		return "udp" + v6, true
	case m.has(prerequisite{kind: KindIPProto, value: 132}):
		return "sctp" + v6, true
	case v6 == "" && m.has(prerequisite{kind: KindIPProto, value: 1}):
		return "icmp", true
	case v6 != "" && m.has(prerequisite{kind: KindIPProto, value: 58}):
		return "icmp6", true
	case v6 != "":
		return "ipv6", false
	}
	return "ip", false
}
