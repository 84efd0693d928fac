package pump

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/viasnet/vias/internal/seg"
	"github.com/viasnet/vias/tap"
)

// Bounds of what workloads are told, so that one that does not listen gets no storm.
const (
	noticeRate  = 100 // a second
	noticeBurst = 20
)

// notices makes too-big messages, at a bounded rate.
type notices struct {
	batch *tap.Batch
	left  float64
	last  time.Time
}

func (n *notices) allow(now time.Time) bool {
	if n.batch == nil {
		n.batch = tap.NewBatch(1, maxNotice)
		n.left, n.last = noticeBurst, now
	}
	n.left = min(noticeBurst, n.left+max(0, now.Sub(n.last).Seconds())*noticeRate)
	n.last = now
	if n.left < 1 {
		return false
	}
	n.left--
	return true
}

// tooBig tells the sender of a unicast frame how long its packets may be, as a router would that
// stood before the peer's device.
func (o *Out) tooBig(frame []byte, mtu int) {
	if o.Writer == nil || !answerable(frame) || !o.notices.allow(o.now) {
		return
	}
	b := o.notices.batch
	b.Reset()
	d := b.Reserve(maxNotice)
	n := putTooBig(d, frame, mtu)
	b.Commit(n, tap.Offload{})
	o.Writer.Write(b)
	o.Counters.TooBig.Add(1)
}

const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd

	ipv4Len   = 20
	ipv6Len   = 40
	icmpLen   = 8
	protoICMP = 1
	protoND   = 58 // ICMPv6

	unreachable, fragmentationNeeded = 3, 4 // RFC 792, RFC 1191
	packetTooBig                     = 2    // RFC 4443, section 3.2

	quoteIPv4 = 576 - ipv4Len - icmpLen // RFC 1812, section 4.3.2.3
	quoteIPv6 = 1280 - ipv6Len - icmpLen
	maxNotice = tap.HeaderLen + tap.TagLen + 1280
)

// network is where the layer-3 packet of a frame with at most one tag begins, and its EtherType.
func network(frame []byte) (l3 int, etherType uint16) {
	l3, etherType = tap.HeaderLen, binary.BigEndian.Uint16(frame[12:])
	if (etherType == 0x8100 || etherType == 0x88a8) && len(frame) >= tap.HeaderLen+tap.TagLen {
		return tap.HeaderLen + tap.TagLen, binary.BigEndian.Uint16(frame[16:])
	}
	return l3, etherType
}

// answerable tells whether frame may be answered by an ICMP error: not if it is one itself, has no
// one sender or receiver, or is a later fragment (RFC 1122, section 3.2.2; RFC 4443, section 2.4).
func answerable(frame []byte) bool {
	l3, etherType := network(frame)
	p := frame[l3:]
	var src, dst netip.Addr
	switch {
	case etherType == etherIPv4 && len(p) >= ipv4Len+icmpLen && p[0] == 0x45:
		if binary.BigEndian.Uint16(p[6:])&0x1fff != 0 || p[9] == protoICMP && icmpError(p[ipv4Len]) {
			return false
		}
		src, dst = netip.AddrFrom4([4]byte(p[12:])), netip.AddrFrom4([4]byte(p[16:]))
	case etherType == etherIPv6 && len(p) >= ipv6Len+icmpLen && p[0]>>4 == 6:
		if p[6] == protoND && p[ipv6Len] < 128 {
			return false
		}
		src, dst = netip.AddrFrom16([16]byte(p[8:])), netip.AddrFrom16([16]byte(p[24:]))
	default:
		return false
	}
	return unicast(src) && unicast(dst)
}

func unicast(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// icmpError tells errors from queries (RFC 1122, section 3.2.2).
func icmpError(kind byte) bool {
	switch kind {
	case 3, 4, 5, 11, 12:
		return true
	}
	return false
}

// putTooBig writes the message for an answerable frame to d, which has maxNotice bytes. It comes from
// where the frame was to go: no router shows.
func putTooBig(d, frame []byte, mtu int) int {
	l3, etherType := network(frame)
	copy(d, frame[6:12])
	copy(d[6:], frame[:6])
	copy(d[12:], frame[12:l3])
	ip, p := d[l3:], frame[l3:]
	clear(ip[:ipv6Len+icmpLen])
	if etherType == etherIPv4 {
		n := ipv4Len + icmpLen + copy(ip[ipv4Len+icmpLen:][:quoteIPv4], p)
		ip[0], ip[8], ip[9] = 0x45, 64, protoICMP
		binary.BigEndian.PutUint16(ip[2:], uint16(n))
		ip[6] = 0x40 // DF
		copy(ip[12:], p[16:20])
		copy(ip[16:], p[12:16])
		seg.PutIPv4Checksum(ip[:ipv4Len])
		icmp := ip[ipv4Len:n]
		icmp[0], icmp[1] = unreachable, fragmentationNeeded
		binary.BigEndian.PutUint16(icmp[6:], uint16(mtu))
		binary.BigEndian.PutUint16(icmp[2:], seg.Checksum(icmp, 0))
		return l3 + n
	}
	n := ipv6Len + icmpLen + copy(ip[ipv6Len+icmpLen:][:quoteIPv6], p)
	ip[0], ip[6], ip[7] = 0x60, protoND, 64
	binary.BigEndian.PutUint16(ip[4:], uint16(n-ipv6Len))
	copy(ip[8:], p[24:40])
	copy(ip[24:], p[8:24])
	icmp := ip[ipv6Len:n]
	icmp[0] = packetTooBig
	binary.BigEndian.PutUint32(icmp[4:], uint32(max(mtu, 1280)))
	binary.BigEndian.PutUint16(icmp[2:], seg.Checksum(icmp, seg.PseudoHeader(ip[8:24], ip[24:40], protoND, len(icmp))))
	return l3 + n
}
