package ofctltest

import (
	"encoding/binary"

	"github.com/viasnet/vias/ofctl"
)

// keyLen is a whole number of 64-bit words, so that masking is a few ANDs.
const keyLen = 112

// key is all that a flow can match of one frame, at fixed offsets. A match is a
// key and a mask of the same layout.
type key [keyLen]byte

// Offsets in a key. Fields whose prerequisites exclude each other share a place:
// a match on one holds the prerequisite too, so they cannot be confused.
const (
	atMetadata = 0
	atInPort   = 8
	atEthSrc   = 12
	atEthDst   = 18
	atEthType  = 24
	atVLAN     = 26
	atIPv4Src  = 28 // and ARP SPA
	atIPv4Dst  = 32 // and ARP TPA
	atIPv6Src  = 36
	atIPv6Dst  = 52
	atIPProto  = 68
	atIPDSCP   = 69
	atIPECN    = 70
	atTTL      = 71
	atFrag     = 72
	atARPOp    = 74
	atARPSHA   = 76
	atARPTHA   = 82
	atL4Src    = 88 // and ICMP type
	atL4Dst    = 90 // and ICMP code
	atNDTarget = 92
)

// offset is where a field of kind k lies in a key, or -1.
func offset(k ofctl.FieldKind) int {
	switch k {
	case ofctl.KindMetadata:
		return atMetadata
	case ofctl.KindInPort:
		return atInPort
	case ofctl.KindVLAN:
		return atVLAN
	case ofctl.KindEthSrc:
		return atEthSrc
	case ofctl.KindEthDst:
		return atEthDst
	case ofctl.KindEthType:
		return atEthType
	case ofctl.KindIPv4Src, ofctl.KindARPSPA:
		return atIPv4Src
	case ofctl.KindIPv4Dst, ofctl.KindARPTPA:
		return atIPv4Dst
	case ofctl.KindIPv6Src:
		return atIPv6Src
	case ofctl.KindIPv6Dst:
		return atIPv6Dst
	case ofctl.KindARPOp:
		return atARPOp
	case ofctl.KindARPSHA:
		return atARPSHA
	case ofctl.KindARPTHA:
		return atARPTHA
	case ofctl.KindNDTarget:
		return atNDTarget
	}
	return offsetIP(k)
}

// offsetIP is offset for what stands in IP and transport headers.
func offsetIP(k ofctl.FieldKind) int {
	switch k {
	case ofctl.KindIPProto:
		return atIPProto
	case ofctl.KindIPDSCP:
		return atIPDSCP
	case ofctl.KindIPECN:
		return atIPECN
	case ofctl.KindTTL:
		return atTTL
	case ofctl.KindFrag:
		return atFrag
	case ofctl.KindTCPSrc, ofctl.KindUDPSrc, ofctl.KindICMP4Type, ofctl.KindICMP6Type:
		return atL4Src
	case ofctl.KindTCPDst, ofctl.KindUDPDst, ofctl.KindICMP4Code, ofctl.KindICMP6Code:
		return atL4Dst
	}
	return -1
}

// compile turns a match that passed checkMatch into a value and its mask.
func compile(m ofctl.Match) (value, mask key) {
	for _, f := range m {
		at := offset(f.Kind())
		if at < 0 {
			continue
		}
		v, fm := f.Value(), f.Mask()
		copy(value[at:], v)
		for i := range v {
			mask[at+i] = 0xff
		}
		if fm != nil {
			copy(mask[at:], fm)
		}
	}
	return value, mask
}

// and is k in the bits of mask.
func (k *key) and(mask *key) (out key) {
	for i := 0; i < keyLen; i += 8 {
		binary.NativeEndian.PutUint64(out[i:],
			binary.NativeEndian.Uint64(k[i:])&binary.NativeEndian.Uint64(mask[i:]))
	}
	return out
}

// covers tells whether every frame that (v2, m2) matches is one that (value, mask)
// matches: the second is at least as specific.
func covers(value, mask, v2, m2 *key) bool {
	return m2.and(mask) == *mask && v2.and(mask) == *value
}
