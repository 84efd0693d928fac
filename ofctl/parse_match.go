package ofctl

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// protocols are ovs-ofctl's words for an EtherType, and an IP protocol if not 0. It
// never changes.
var protocols = map[string]struct {
	ether uint16
	proto uint8
}{
	"ip": {0x0800, 0}, "tcp": {0x0800, 6}, "udp": {0x0800, 17}, "sctp": {0x0800, 132}, "icmp": {0x0800, 1},
	"ipv6": {0x86dd, 0}, "tcp6": {0x86dd, 6}, "udp6": {0x86dd, 17}, "sctp6": {0x86dd, 132}, "icmp6": {0x86dd, 58},
	"arp": {0x0806, 0},
}

// parseMatch reads the words of a match.
func parseMatch(words []string) (m Match, err error) {
	for _, word := range words {
		if p, ok := protocols[word]; ok {
			m = append(m, EthType(p.ether))
			if p.proto != 0 {
				m = append(m, IPProto(p.proto))
			}
			continue
		}
		key, value, _ := strings.Cut(word, "=")
		f, err := m.parseField(key, value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", word, err)
		}
		m = append(m, f)
	}
	return m, nil
}

// parseField reads one field; m is the match so far, which says what ports and types are
// of.
func (m Match) parseField(key, value string) (Field, error) {
	switch key {
	case "dl_vlan":
		v, err := number[uint16](value)
		switch {
		case err != nil, v > 0xfff && v != 0xffff:
			return Field{}, errBadNumber
		case v == 0xffff:
			return Untagged(), nil
		}
		return VLAN(v), nil
	case "vlan_tci":
		return parseTCI(value)
	case "nw_tos":
		v, err := number[uint8](value)
		if v&3 != 0 {
			err = errBadNumber
		}
		return IPDSCP(v >> 2), err
	case "nw_frag":
		return parseFrag(value)
	}
	k := m.kindNamed(key)
	if k == 0 {
		return Field{}, errUnknownWord
	}
	return parseValue(k, value)
}

// kindNamed is the kind that key names in a match; 0 = none.
func (m Match) kindNamed(key string) FieldKind {
	named := FieldKind(0)
	for k := FieldKind(1); k < kindCount; k++ {
		fi := k.info()
		if key != fi.match && key != fi.name {
			continue
		}
		// tp_src and icmp_type are several: the one whose prerequisites m holds.
		if named == 0 || m.missing(fi) == "" {
			named = k
		}
		if key == fi.name && key != fi.match {
			return k
		}
	}
	return named
}

// parseTCI reads vlan_tci=0xVALUE/0xMASK as far as it is about the VLAN.
func parseTCI(s string) (Field, error) {
	v, m, masked := strings.Cut(s, "/")
	value, err := number[uint16](v)
	mask := uint16(0x1fff)
	if err == nil && masked {
		mask, err = number[uint16](m)
	}
	if err != nil || mask&^0x1fff != 0 || value&^mask != 0 {
		return Field{}, errBadNumber
	}
	f := Masked(field16(KindVLAN, value), uint64(mask))
	if mask == 0x1fff {
		f.masked, f.mask = false, [16]byte{}
	}
	return f, nil
}

// parseFrag reads a word for nw_frag.
func parseFrag(s string) (Field, error) {
	f := field8(KindFrag, 0)
	switch s {
	case "no":
		return f, nil
	case "yes":
		return Masked(field8(KindFrag, 1), 1), nil
	case "first":
		return field8(KindFrag, 1), nil
	case "later":
		return Masked(field8(KindFrag, 2), 2), nil
	case "not_later":
		return Masked(f, 2), nil
	}
	return Field{}, errUnknownWord
}

// parseValue reads VALUE or VALUE/MASK of a field.
func parseValue(k FieldKind, s string) (Field, error) {
	value, mask, masked := strings.Cut(s, "/")
	f := Field{kind: k, masked: masked}
	var err error
	if f.value, err = parseBytes(k, value); err != nil || !masked {
		return f, err
	}
	if prefix, perr := netip.ParsePrefix(s); perr == nil && prefix.Addr().BitLen() == 8*k.Width() {
		return fieldPrefix(k, prefix), nil
	}
	if f.mask, err = parseBytes(k, mask); err != nil {
		return f, err
	}
	for i := range f.value {
		f.value[i] &= f.mask[i]
	}
	return f, nil
}

// parseBytes reads a value or a mask in the form that its kind is written in.
func parseBytes(k FieldKind, s string) (b [16]byte, err error) {
	switch k {
	case KindInPort:
		port, err := parsePort(s)
		return field32(k, port).value, err
	case KindEthSrc, KindEthDst, KindARPSHA, KindARPTHA, KindNDSLL, KindNDTLL:
		raw, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
		if err != nil || len(raw) != 6 || len(s) != 17 {
			return b, fmt.Errorf("%q is no MAC address", s)
		}
		copy(b[:], raw)
		return b, nil
	case KindIPv4Src, KindIPv4Dst, KindARPSPA, KindARPTPA, KindIPv6Src, KindIPv6Dst, KindNDTarget:
		a, err := netip.ParseAddr(s)
		if err != nil || a.BitLen() != 8*k.Width() || a.Zone() != "" {
			return b, fmt.Errorf("%q is no such address", s)
		}
		copy(b[:], a.AsSlice())
		return b, nil
	}
	v, err := number[uint64](s)
	if bits := k.info().bits; err == nil && bits < 64 && v>>bits != 0 {
		err = errBadNumber
	}
	return Field{kind: k}.number64(v).value, err
}
