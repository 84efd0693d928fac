package flowtable

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/netip"

	"github.com/viasnet/vias/bypass"
)

// tuple is a Flow in half the bytes. It has no padding, so that it is compared as one piece of
// memory. IPv4 addresses are kept in IPv6's form
// (RFC 4291, section 2.5.5.2), which no flow has as its own: no switch rewrites those.
type tuple struct {
	src, dst [16]byte
	sp, dp   uint16
	proto    bypass.Proto
	_        uint8
}

// tupleOf is f in short; false if its addresses are not of one family, or none.
func tupleOf(f bypass.Flow) (tuple, bool) {
	src, dst := f.Src.Addr(), f.Dst.Addr()
	if !src.IsValid() || !dst.IsValid() || src.Is4() != dst.Is4() || src.Is4In6() || dst.Is4In6() {
		return tuple{}, false
	}
	return tuple{src: src.As16(), dst: dst.As16(), sp: f.Src.Port(), dp: f.Dst.Port(), proto: f.Proto}, true
}

func (k *tuple) flow() bypass.Flow {
	return bypass.Flow{Proto: k.proto, Src: endpoint(k.src, k.sp), Dst: endpoint(k.dst, k.dp)}
}

func endpoint(a [16]byte, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(a).Unmap(), port)
}

// seed is random, so that nobody can make many flows share a slot.
type seed [4]uint64

func newSeed() seed { return seed{rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64()} }

// hash multiplies and folds, as wyhash does.
func (k *tuple) hash(s *seed) uint64 {
	src := mix(binary.LittleEndian.Uint64(k.src[:8])^s[0], binary.LittleEndian.Uint64(k.src[8:])^s[1])
	dst := mix(binary.LittleEndian.Uint64(k.dst[:8])^s[2], binary.LittleEndian.Uint64(k.dst[8:])^s[3])
	rest := uint64(k.sp)<<32 | uint64(k.dp)<<8 | uint64(k.proto)
	return mix(src^s[1], mix(dst^s[0], rest^s[2]))
}

func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}
