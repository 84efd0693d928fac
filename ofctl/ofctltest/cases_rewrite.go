package ofctltest

import (
	"encoding/binary"
	"slices"

	"github.com/stretchr/testify/require"
	"github.com/viasnet/vias/ofctl"
)

// rewriteCases: actions that change the frame. What comes out is compared with a
// frame that was built with the new headers, so checksums are checked byte by byte.
func rewriteCases() []conformanceCase {
	return []conformanceCase{
		{"set_field rewrites a TCP segment", caseRewriteTCP},
		{"set_field rewrites a UDP datagram", caseRewriteUDP},
		{"UDP checksum 0 stays 0", caseUDPZero},
		{"UDP checksum that becomes 0 is sent as 0xffff", caseUDPFFFF},
		{"set_field rewrites TCP over IPv6", caseRewriteTCP6},
		{"set_field rewrites UDP over IPv6", caseRewriteUDP6},
		{"set_field rewrites what is behind IPv6 extension headers", caseRewriteExtensions},
		{"an atomic fragment is as it was when it is rewritten back", caseRewriteAtomic},
		{"set_field rewrites ICMP addresses", caseRewriteICMP},
		{"set_field of DSCP, ECN and TTL", caseRewriteTOS},
		{"dec_ttl", caseDecTTL},
		{"a wrong checksum stays wrong", caseWrongSum},
		{"push, set and pop a VLAN tag", caseVLANActions},
	}
}

func sets(fs ...ofctl.Field) []ofctl.Action {
	as := make([]ofctl.Action, len(fs))
	for i, f := range fs {
		as[i] = ofctl.SetField{Field: f}
	}
	return as
}

// rewrites asserts that as, done to frames of match, make out of in.
func (e *env) rewrites(match ofctl.Match, as []ofctl.Action, in, out []byte) {
	e.t.Helper()
	e.add(ofctl.Flow{Priority: 5, Match: match, Apply: slices.Concat(as, e.to(1))})
	require.True(e.t, sumsOK(out), "the test's own frame")
	e.send(0, in)
	e.want(1, out)
}

func caseRewriteTCP(e *env) {
	e.rewrites(ofctl.TCP4(), sets(
		ofctl.EthSrc(macB), ofctl.EthDst(macC), ofctl.IPv4Src(prefix("10.0.0.2/32")),
		ofctl.IPv4Dst(prefix("172.16.0.3/32")), ofctl.TCPSrc(61000), ofctl.TCPDst(62000)),
		tcpAB(1000, 80, "odd data"),
		append(ethernet(macC, macB, etherIPv4, nil),
			summed(ip4(protoTCP, ipB, ipC, 0x4000, tcp(61000, 62000, "odd data")))[14:]...))
}

func caseRewriteUDP(e *env) {
	e.rewrites(ofctl.UDP4(), sets(
		ofctl.IPv4Src(prefix("10.0.0.2/32")), ofctl.IPv4Dst(prefix("172.16.0.3/32")),
		ofctl.UDPSrc(61000), ofctl.UDPDst(62000)),
		udpAB(1000, 53, "data!"), summed(ip4(protoUDP, ipB, ipC, 0, udp(61000, 62000, "data!"))))
}

func caseUDPZero(e *env) {
	e.rewrites(ofctl.UDP4(), sets(ofctl.IPv4Dst(prefix("172.16.0.3/32")), ofctl.UDPDst(62000)),
		ip4(protoUDP, ipA, ipB, 0, udp(1000, 53, "data")), ip4(protoUDP, ipA, ipC, 0, udp(1000, 62000, "data")))
}

func caseUDPFFFF(e *env) {
	// Find the source port with which the checksum comes out as zero.
	for port := range uint16(0xffff) {
		out := udpAB(port, 62000, "data")
		p := newPacket(out, 0)
		if binary.BigEndian.Uint16(out[p.sum:]) == 0xffff {
			e.rewrites(ofctl.UDP4(), sets(ofctl.UDPDst(62000)), udpAB(port, 53, "data"), out)
			return
		}
	}
	e.t.Fatal("no port does it")
}

func caseRewriteTCP6(e *env) {
	a, b, c := [16]byte{0xfd, 15: 1}, [16]byte{0xfd, 15: 2}, [16]byte{0xfd, 1, 2, 3, 15: 0x33}
	e.rewrites(ofctl.TCP6(ofctl.IPv6Dst(prefix("fd00::/16"))), sets(ofctl.IPv6Src(prefix("fd00::2/128")), ofctl.IPv6Dst(prefix("fd01:203::33/128")), ofctl.TCPDst(443)),
		summed(ip6(protoTCP, a, b, tcp(1000, 80, "data"))), summed(ip6(protoTCP, b, c, tcp(1000, 443, "data"))))
}

// caseRewriteUDP6: also when the checksum comes out as 0, or is 0 though it must not be
// (RFC 8200, section 8.1): then it stays so.
func caseRewriteUDP6(e *env) {
	a, b, c := [16]byte{0xfd, 15: 1}, [16]byte{0xfd, 15: 2}, [16]byte{0xfd, 1, 2, 3, 15: 0x33}
	as := sets(ofctl.IPv6Src(prefix("fd00::2/128")), ofctl.IPv6Dst(prefix("fd01:203::33/128")), ofctl.UDPSrc(61000), ofctl.UDPDst(62000))
	e.rewrites(ofctl.UDP6(ofctl.NotFragment()), as,
		summed(ip6(protoUDP, a, b, udp(1000, 53, "data!"))), summed(ip6(protoUDP, b, c, udp(61000, 62000, "data!"))))
	zero := summed(ip6(protoUDP, b, c, udp(61000, 62000, "\x00\x00data")))
	p := newPacket(zero, 0)
	copy(zero[p.l4+8:], zero[p.sum:p.sum+2]) // then all the rest sums to 0xffff
	zero = summed(zero)
	require.Equal(e.t, []byte{0xff, 0xff}, zero[p.sum:p.sum+2])
	e.rewrites(ofctl.UDP6(ofctl.NotFragment()), as, summed(ip6(protoUDP, a, b, udp(1000, 53, string(zero[p.l4+8:])))), zero)
	e.rewrites(ofctl.UDP6(ofctl.NotFragment()), as,
		ip6(protoUDP, a, b, udp(1000, 53, "data")), ip6(protoUDP, b, c, udp(61000, 62000, "data")))
}

// caseRewriteExtensions: a switch looks through extension headers, and a flow cannot say
// that it must not. So it matters that it rewrites what is behind them rightly.
func caseRewriteExtensions(e *env) {
	a, b, c := [16]byte{0xfd, 15: 1}, [16]byte{0xfd, 15: 2}, [16]byte{0xfd, 1, 2, 3, 15: 0x33}
	chains := map[string]struct {
		first byte
		bytes []byte
	}{
		"hop-by-hop":           {0, []byte{protoTCP, 0, 1, 4, 0, 0, 0, 0}},
		"destination options":  {60, []byte{protoTCP, 0, 1, 4, 0, 0, 0, 0}},
		"routing, at its end":  {43, []byte{protoTCP, 0, 4, 0, 0, 0, 0, 0}},
		"authentication":       {51, []byte{protoTCP, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 9, 9, 9, 9}},
		"two":                  {0, []byte{60, 0, 1, 4, 0, 0, 0, 0, protoTCP, 0, 1, 4, 0, 0, 0, 0}},
		"longer than a header": {60, append([]byte{protoTCP, 1, 1, 12}, make([]byte, 12)...)},
	}
	for name, chain := range chains {
		e.t.Log(name)
		e.rewrites(ofctl.TCP6(ofctl.NotFragment(), ofctl.TCPDst(80)),
			sets(ofctl.IPv6Src(prefix("fd00::2/128")), ofctl.IPv6Dst(prefix("fd01:203::33/128")), ofctl.TCPDst(443)),
			summed(ip6(chain.first, a, b, append(slices.Clone(chain.bytes), tcp(1000, 80, "data")...))),
			summed(ip6(chain.first, b, c, append(slices.Clone(chain.bytes), tcp(1000, 443, "data")...))))
	}
}

// caseRewriteAtomic: Open vSwitch takes an atomic fragment (RFC 6946) for no fragment when
// it matches, and (in user space, 3.1) for one when it sets IPv6 addresses: then it leaves
// the checksum behind. What undoes the rewriting undoes that.
func caseRewriteAtomic(e *env) {
	a, b := [16]byte{0xfd, 15: 1}, [16]byte{0xfd, 15: 2}
	frame := summed(ip6(44, a, b, append([]byte{protoTCP, 0, 0, 0, 0, 0, 0, 7}, tcp(1000, 80, "data")...)))
	e.add(
		ofctl.Flow{Match: ofctl.TCP6(ofctl.NotFragment(), ofctl.InPort(e.p[0]), ofctl.TCPDst(80)), Apply: append(sets(
			ofctl.IPv6Src(prefix("fd00::2/128")), ofctl.IPv6Dst(prefix("fd01:203::33/128")), ofctl.TCPDst(443)), e.to(1)...)},
		ofctl.Flow{Match: ofctl.TCP6(ofctl.NotFragment(), ofctl.InPort(e.p[2]), ofctl.TCPDst(443)), Apply: append(sets(
			ofctl.IPv6Src(prefix("fd00::1/128")), ofctl.IPv6Dst(prefix("fd00::2/128")), ofctl.TCPDst(80)), e.to(3)...)},
	)
	e.send(0, frame)
	out := e.h.Expect(e.p[1], patience)
	require.NotNil(e.t, out)
	require.Equal(e.t, frame[:22], out[:22])
	require.NotEqual(e.t, frame[22:54], out[22:54])
	e.send(2, out)
	e.want(3, frame)
}

func caseRewriteICMP(e *env) {
	echo := []byte{8, 0, 0, 0, 0, 1, 0, 2, 'p', 'i', 'n', 'g'}
	e.rewrites(ofctl.ICMP4(ofctl.ICMPType(8), ofctl.ICMPCode(0)), sets(ofctl.IPv4Dst(prefix("172.16.0.3/32"))),
		summed(ip4(protoICMP, ipA, ipB, 0, echo)), summed(ip4(protoICMP, ipA, ipC, 0, echo)))
}

func caseRewriteTOS(e *env) {
	out := tcpAB(1, 80, "x")
	h := out[14:34]
	h[1], h[8], h[10], h[11] = 46<<2|1, 255, 0, 0
	binary.BigEndian.PutUint16(h[10:], ^sum16(h, 0))
	e.rewrites(ofctl.TCP4(), sets(ofctl.IPDSCP(46), ofctl.IPECN(1), ofctl.TTL(255)), tcpAB(1, 80, "x"), out)
	back := ofctl.TCP4(ofctl.IPDSCP(46), ofctl.IPECN(1), ofctl.TTL(255))
	e.add(ofctl.Flow{Priority: 9, Match: back, Apply: e.to(2)})
	e.send(0, out)
	e.want(2, out)
}

func caseDecTTL(e *env) {
	out := tcpAB(1, 80, "x")
	h := out[14:34]
	h[8], h[10], h[11] = 63, 0, 0
	binary.BigEndian.PutUint16(h[10:], ^sum16(h, 0))
	e.rewrites(ofctl.IP4(), []ofctl.Action{ofctl.DecTTL{}}, tcpAB(1, 80, "x"), out)
	dying := tcpAB(1, 80, "x")
	dying[22] = 1
	e.send(0, dying) // goes nowhere
}

func caseWrongSum(e *env) {
	in := tcpAB(1, 80, "x")
	in[50]++
	e.add(ofctl.Flow{Match: ofctl.TCP4(), Apply: append(sets(ofctl.TCPDst(81)), e.to(1)...)})
	e.send(0, in)
	out := e.h.Expect(e.p[1], patience)
	require.NotNil(e.t, out)
	require.False(e.t, sumsOK(out), "nobody may vouch for what was wrong before")
}

func caseVLANActions(e *env) {
	in := tcpAB(1, 80, "x")
	push := slices.Concat([]ofctl.Action{ofctl.PushVLAN{}}, sets(ofctl.VLAN(100)))
	e.rewrites(ofctl.Match{ofctl.Untagged()}, push, in, withTag(in, 100))
	e.rewrites(ofctl.Match{ofctl.VLAN(100)}, sets(ofctl.VLAN(200)), withTag(in, 100), withTag(in, 200))
	e.rewrites(ofctl.Match{ofctl.VLAN(300)}, []ofctl.Action{ofctl.PopVLAN{}}, withTag(in, 300), in)
}
