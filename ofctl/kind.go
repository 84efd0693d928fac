package ofctl

// FieldKind says which header field (or metadata) a Field is about.
type FieldKind uint8

// Kinds of fields. The order is the one in which ovs-ofctl prints them.
const (
	_ FieldKind = iota
	KindTunnelID
	KindMetadata
	KindInPort
	KindVLAN // 0 = untagged, else 0x1000|vid
	KindVLANPCP
	KindEthSrc
	KindEthDst
	KindEthType
	KindIPv4Src
	KindIPv4Dst
	KindIPv6Src
	KindIPv6Dst
	KindIPv6Label
	KindARPSPA
	KindARPTPA
	KindIPProto
	KindARPOp
	KindARPSHA
	KindARPTHA
	KindIPDSCP // the six bits, not shifted
	KindIPECN
	KindTTL  // NXM_NX_IP_TTL: IPv4 TTL or IPv6 hop limit
	KindFrag // NXM_NX_IP_FRAG: bit 0 = a fragment, bit 1 = and not the first
	KindTCPSrc
	KindTCPDst
	KindUDPSrc
	KindUDPDst
	KindSCTPSrc
	KindSCTPDst
	KindICMP4Type
	KindICMP4Code
	KindICMP6Type
	KindICMP6Code
	KindNDTarget
	KindNDSLL
	KindNDTLL
	kindCount
)

// OXM classes (OpenFlow 1.3.5, section 7.2.3.3).
const (
	classNXM0  = 0x0000
	classNXM1  = 0x0001 // Nicira extensions
	classBasic = 0x8000

	classExperimenter = 0xffff
)

// fieldInfo is one row of the field table.
type fieldInfo struct {
	class uint16
	num   uint8
	bits  int    // significant bits
	bytes int    // on the wire; 0 = as many as the bits need
	match string // ovs-ofctl's name in a match
	name  string // ovs-ofctl's name in set_field
	// needs: one of these must stand in the match as well (section 7.2.3.6).
	needs []prerequisite
	// ether, if any, is the EtherType that must stand in it beside.
	ether uint16
	// maskable fields may have an arbitrary mask.
	maskable bool
	// settable fields may stand in SetField.
	settable bool
}

// prerequisite is a field that another one needs: with value in the bits of mask, or
// exactly when mask is 0.
type prerequisite struct {
	kind        FieldKind
	value, mask uint16
}

// info is k's row of the field table; its bits are 0 for what is no kind.
func (k FieldKind) info() *fieldInfo { return &fields[min(k, kindCount)] }

// String is ovs-ofctl's name of the field, as set_field takes it.
func (k FieldKind) String() string {
	if fi := k.info(); fi.bits != 0 {
		return fi.name
	}
	return "unknown"
}

// Width is the size of the field's value in bytes.
func (k FieldKind) Width() int {
	fi := k.info()
	return max((fi.bits+7)/8, fi.bytes)
}

// Kind says which field f is.
func (f Field) Kind() FieldKind { return f.kind }

// Value is a copy of f's value, big-endian, Kind().Width() bytes.
func (f Field) Value() []byte { return f.value[:f.kind.Width()] }

// Mask is a copy of f's mask, as wide as Value, or nil when f is exact.
func (f Field) Mask() []byte {
	if !f.masked {
		return nil
	}
	return f.mask[:f.kind.Width()]
}

// Matches tells whether a header field that holds value (big-endian, as wide as
// the field) satisfies f. It does not allocate.
func (f *Field) Matches(value []byte) bool {
	w := f.kind.Width()
	if len(value) != w {
		return false
	}
	for i, v := range value {
		if f.masked {
			v &= f.mask[i]
		}
		if v != f.value[i] {
			return false
		}
	}
	return true
}
