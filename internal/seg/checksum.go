package seg

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// IP protocol numbers of the transports that seg knows.
const (
	ProtocolTCP = 6
	ProtocolUDP = 17
)

// Sum adds the 16-bit big-endian words of b to initial, in ones' complement, and
// returns the sum folded to 16 bits (RFC 1071). Sums can be chained and added up,
// where every part but the last has an even length.
func Sum(b []byte, initial uint32) uint32 {
	// Ones' complement addition does not mind the byte order (RFC 1071, section
	// 2(B)): add little-endian words of 8 bytes, swap once at the end.
	var sum, carry uint64
	for len(b) >= 32 {
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b[8:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b[16:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b[24:]), carry)
		b = b[32:]
	}
	for len(b) >= 8 {
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b), carry)
		b = b[8:]
	}
	var last uint64 // the last 0 to 7 bytes, as if zeros followed
	for i, v := range b {
		last |= uint64(v) << (8 * i)
	}
	sum, carry = bits.Add64(sum, last, carry)
	sum, carry = bits.Add64(sum, 0, carry)
	return fold(uint64(bits.ReverseBytes16(uint16(fold(sum+carry)))) + uint64(initial))
}

// fold brings a sum down to 16 bits.
func fold(sum uint64) uint32 {
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return uint32(sum)
}

// Checksum is the Internet checksum of b: the complement of Sum. Over data that
// holds its own right checksum it is 0.
func Checksum(b []byte, initial uint32) uint16 { return ^uint16(Sum(b, initial)) }

// PseudoHeader is the sum of the pseudo-header for a TCP or UDP segment of length
// bytes (its header included), to be given to Checksum as initial. src and dst are
// both IPv4 or both IPv6 addresses of 4 or 16 bytes (RFC 9293, section 3.1; RFC
// 8200, section 8.1).
func PseudoHeader(src, dst []byte, protocol uint8, length int) uint32 {
	return Sum(dst, Sum(src, fold(uint64(length)+uint64(protocol))))
}

// TransportChecksum is the checksum to put into a TCP or UDP segment whose
// checksum field is zero now. src and dst are of the same family. For UDP a
// computed 0 is 0xffff already (RFC 768).
func TransportChecksum(src, dst netip.Addr, protocol uint8, segment []byte) uint16 {
	var sum uint32
	if src.Is4() {
		s, d := src.As4(), dst.As4()
		sum = PseudoHeader(s[:], d[:], protocol, len(segment))
	} else {
		s, d := src.As16(), dst.As16()
		sum = PseudoHeader(s[:], d[:], protocol, len(segment))
	}
	return notZero(Checksum(segment, sum), protocol == ProtocolUDP)
}

// PutIPv4Checksum computes and writes the checksum of an IPv4 header, options
// included, which must have at least 20 bytes.
func PutIPv4Checksum(header []byte) {
	header[10], header[11] = 0, 0
	binary.BigEndian.PutUint16(header[10:], Checksum(header, 0))
}

// ipv4Constant is the sum of what is the same in an IPv4 header for each segment of a
// super-frame: all but length, identification and checksum.
func ipv4Constant(header []byte) uint32 {
	return fold(uint64(Sum(header[:2], 0)) + uint64(Sum(header[6:10], 0)) + uint64(Sum(header[12:], 0)))
}

// ipv4Sum is the sum of the header, without its checksum.
func ipv4Sum(constant uint32, length, id uint16) uint32 {
	sum := constant + uint32(length) + uint32(id)
	sum = sum>>16 + sum&0xffff
	return sum>>16 + sum&0xffff
}

// Update is the checksum after the bytes old that it covers were replaced by new,
// of the same, even, length and at an even offset (RFC 1624, equation 3). UDP's
// rules for 0 are the caller's.
func Update(checksum uint16, old, new []byte) uint16 {
	sum := uint64(^checksum)
	sum += uint64(^uint16(Sum(old, 0)))
	sum += uint64(Sum(new, 0))
	return ^uint16(fold(sum))
}

// notZero replaces 0, which means "no checksum" in UDP, by its equal 0xffff.
func notZero(checksum uint16, udp bool) uint16 {
	if udp && checksum == 0 {
		return 0xffff
	}
	return checksum
}
