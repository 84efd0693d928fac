package ofctltest

import (
	"encoding/binary"
	"slices"

	"github.com/viasnet/vias/ofctl"
)

// pipelineCases: instructions and what frames match in later tables.
func pipelineCases() []conformanceCase {
	return []conformanceCase{
		{"goto goes on with the rewritten frame", caseGoto},
		{"action set runs at the end of the pipeline", caseActionSet},
		{"clear empties the action set", caseClear},
		{"a miss in a later table runs the action set", caseMissRunsSet},
		{"metadata is carried to later tables", caseMetadata},
		{"apply before goto sees the frame as it was", caseApplyThenGoto},
		{"output to in_port needs IN_PORT", caseInPort},
		{"all and flood spare the in_port", caseFlood},
	}
}

func caseGoto(e *env) {
	e.add(
		ofctl.Flow{Match: tcpTo(80), Apply: sets(ofctl.TCPDst(81)), Goto: 10},
		ofctl.Flow{Table: 10, Priority: 2, Match: tcpTo(80), Apply: e.to(1)},
		ofctl.Flow{Table: 10, Priority: 1, Match: tcpTo(81), Apply: e.to(2)},
	)
	e.send(0, tcpAB(1, 80, "x"))
	e.want(2, tcpAB(1, 81, "x"))
}

func caseActionSet(e *env) {
	e.add(
		ofctl.Flow{Match: tcpTo(80), Write: slices.Concat(e.to(1), sets(ofctl.TCPDst(81))), Goto: 10},
		// Not rewritten yet; the later output and field replace the earlier ones.
		ofctl.Flow{Table: 10, Match: tcpTo(80), Write: slices.Concat(e.to(2), sets(ofctl.TCPSrc(5))), Goto: 20},
		ofctl.Flow{Table: 20, Match: tcpTo(80), Apply: e.to(3)},
	)
	e.send(0, tcpAB(1, 80, "x"))
	e.want(3, tcpAB(1, 80, "x"))
	e.want(2, tcpAB(5, 81, "x"))
}

func caseClear(e *env) {
	e.add(
		ofctl.Flow{Match: tcpTo(80), Write: e.to(1), Goto: 10},
		ofctl.Flow{Table: 10, Match: tcpTo(80), Clear: true, Apply: e.to(2)},
		ofctl.Flow{Match: tcpTo(81), Write: e.to(1), Goto: 11},
		ofctl.Flow{Table: 11, Clear: true, Apply: []ofctl.Action{ofctl.Normal()}, Write: nil},
	)
	e.send(0, tcpAB(1, 80, "x"))
	e.want(2, tcpAB(1, 80, "x"))
	e.send(0, tcpAB(1, 81, "y"))
	for i := 1; i < 4; i++ {
		e.want(i, tcpAB(1, 81, "y")) // flooded, and not twice to port 1
	}
}

func caseMissRunsSet(e *env) {
	e.add(ofctl.Flow{Match: tcpTo(80), Write: e.to(1), Goto: 10})
	e.send(0, tcpAB(1, 80, "x"))
	e.want(1, tcpAB(1, 80, "x"))
}

func caseMetadata(e *env) {
	e.add(
		ofctl.Flow{Match: tcpTo(80), Metadata: ofctl.MetadataWrite{Value: 0x1234, Mask: 0xffff}, Goto: 10},
		ofctl.Flow{Match: tcpTo(81), Metadata: ofctl.MetadataWrite{Value: 0x5678, Mask: 0xffff}, Goto: 10},
		ofctl.Flow{Table: 10, Metadata: ofctl.MetadataWrite{Value: 0xff00, Mask: 0xff00}, Goto: 11},
		ofctl.Flow{Table: 11, Priority: 2, Match: ofctl.Match{ofctl.Metadata(0xff34, 0)}, Apply: e.to(1)},
		ofctl.Flow{Table: 11, Priority: 1, Match: ofctl.Match{ofctl.Metadata(0x78, 0xff)}, Apply: e.to(2)},
	)
	e.send(0, tcpAB(1, 80, "x"))
	e.want(1, tcpAB(1, 80, "x"))
	e.send(0, tcpAB(1, 81, "x"))
	e.want(2, tcpAB(1, 81, "x"))
}

func caseApplyThenGoto(e *env) {
	e.add(
		ofctl.Flow{Match: tcpTo(80), Apply: slices.Concat(e.to(1), sets(ofctl.TCPDst(90)), e.to(2)), Goto: 10},
		ofctl.Flow{Table: 10, Match: tcpTo(90), Apply: e.to(3)},
	)
	e.send(0, tcpAB(1, 80, "x"))
	e.want(1, tcpAB(1, 80, "x"))
	e.want(2, tcpAB(1, 90, "x"))
	e.want(3, tcpAB(1, 90, "x"))
}

func caseInPort(e *env) {
	e.add(
		ofctl.Flow{Match: tcpTo(80), Apply: e.to(0)},
		ofctl.Flow{Match: tcpTo(81), Apply: []ofctl.Action{ofctl.Output{Port: ofctl.PortInPort}}},
	)
	e.send(0, tcpAB(1, 80, "x"))
	e.send(0, tcpAB(1, 81, "y"))
	e.want(0, tcpAB(1, 81, "y"))
}

func caseFlood(e *env) {
	e.add(
		ofctl.Flow{Match: tcpTo(80), Apply: []ofctl.Action{ofctl.Output{Port: ofctl.PortAll}}},
		ofctl.Flow{Match: tcpTo(81), Apply: []ofctl.Action{ofctl.Output{Port: ofctl.PortFlood}}},
	)
	for _, frame := range [][]byte{tcpAB(1, 80, "x"), tcpAB(1, 81, "y")} {
		e.send(0, frame)
		for i := 1; i < 4; i++ {
			e.want(i, frame)
		}
	}
}

// matchCases: which frames match.
func matchCases() []conformanceCase {
	return []conformanceCase{
		{"in_port", caseMatchInPort},
		{"Ethernet addresses and types", caseMatchEthernet},
		{"prefixes", caseMatchPrefix},
		{"masked port range", caseMatchRange},
		{"untagged and tagged", caseMatchVLAN},
		{"fragments", caseMatchFragments},
		{"an atomic fragment", caseMatchAtomic},
		{"ARP", caseMatchARP},
		{"ICMP type and code", caseMatchICMP},
		{"IPv6 extension headers", caseMatchIPv6},
	}
}

// reaches asserts that a frame goes to port number i, or nowhere if i is 0.
func (e *env) reaches(i int, frame []byte) {
	e.t.Helper()
	e.send(0, frame)
	if i != 0 {
		e.want(i, frame)
	}
	e.quiet()
}

func caseMatchInPort(e *env) {
	e.add(ofctl.Flow{Match: ofctl.Match{ofctl.InPort(e.p[2])}, Apply: e.to(1)})
	e.reaches(0, tcpAB(1, 2, "x"))
	e.send(2, tcpAB(1, 2, "x"))
	e.want(1, tcpAB(1, 2, "x"))
}

func caseMatchEthernet(e *env) {
	e.add(
		ofctl.Flow{Priority: 3, Match: ofctl.Match{ofctl.EthDst(macC)}, Apply: e.to(1)},
		ofctl.Flow{Priority: 2, Match: ofctl.Match{ofctl.EthSrc(macC)}, Apply: e.to(2)},
		ofctl.Flow{Priority: 1, Match: ofctl.Match{ofctl.EthType(0x88b6)}, Apply: e.to(3)},
	)
	body := make([]byte, 46)
	e.reaches(1, ethernet(macC, macC, 0x88b6, body))
	e.reaches(2, ethernet(macA, macC, 0x88b6, body))
	e.reaches(3, ethernet(macA, macB, 0x88b6, body))
	e.reaches(0, ethernet(macA, macB, 0x88b7, body))
}

func caseMatchPrefix(e *env) {
	e.add(
		ofctl.Flow{Priority: 3, Match: ofctl.IP4(ofctl.IPv4Dst(prefix("10.0.0.2/32"))), Apply: e.to(1)},
		ofctl.Flow{Priority: 2, Match: ofctl.IP4(ofctl.IPv4Dst(prefix("10.0.0.0/23"))), Apply: e.to(2)},
		ofctl.Flow{Priority: 1, Match: ofctl.IP4(ofctl.IPv4Dst(prefix("0.0.0.0/0"))), Apply: e.to(3)},
	)
	for i, dst := range [][4]byte{{10, 0, 0, 2}, {10, 0, 1, 2}, {10, 0, 2, 2}} {
		e.reaches(i+1, ip4(protoTCP, ipA, dst, 0, tcp(1, 2, "x")))
	}
}

func caseMatchRange(e *env) {
	reserved := ofctl.TCP4(ofctl.PortRange(ofctl.TCPDst(0xf000), 0xf000))
	e.add(
		ofctl.Flow{Match: reserved, Apply: e.to(1)},
		ofctl.Flow{Match: ofctl.UDP4(ofctl.PortRange(ofctl.UDPSrc(0x8000), 0x8001)), Apply: e.to(2)},
	)
	e.reaches(1, tcpAB(1, 0xf000, "x"))
	e.reaches(1, tcpAB(1, 0xffff, "x"))
	e.reaches(0, tcpAB(1, 0xefff, "x"))
	e.reaches(0, tcpAB(0xf000, 1, "x"))
	e.reaches(2, udpAB(0x8002, 1, "x"))
	e.reaches(0, udpAB(0x8003, 1, "x"))
}

func caseMatchVLAN(e *env) {
	e.add(
		ofctl.Flow{Match: ofctl.TCP4(ofctl.Untagged()), Apply: e.to(1)},
		ofctl.Flow{Match: ofctl.TCP4(ofctl.VLAN(7)), Apply: e.to(2)},
		ofctl.Flow{Match: ofctl.TCP4(ofctl.VLAN(0)), Apply: e.to(3)},
	)
	e.reaches(1, tcpAB(1, 2, "x"))
	e.reaches(2, withTag(tcpAB(1, 2, "x"), 7))
	e.reaches(0, withTag(tcpAB(1, 2, "x"), 8))
	e.reaches(3, withTag(tcpAB(1, 2, "x"), 0)) // priority-tagged is not untagged
	e.reaches(0, withTag(withTag(tcpAB(1, 2, "x"), 7), 7))
}

func caseMatchFragments(e *env) {
	e.add(
		ofctl.Flow{Priority: 3, Match: ofctl.TCP4(ofctl.NotFragment(), ofctl.TCPDst(80)), Apply: e.to(1)},
		ofctl.Flow{Priority: 2, Match: tcpTo(80), Apply: e.to(2)},
		ofctl.Flow{Priority: 1, Match: ofctl.TCP4(), Apply: e.to(3)},
	)
	e.reaches(1, ip4(protoTCP, ipA, ipB, 0, tcp(1, 80, "whole")))
	e.reaches(1, ip4(protoTCP, ipA, ipB, 0x4000, tcp(1, 80, "don't fragment")))
	// No fragment has ports, not even the first one, nor one that looks as if.
	e.reaches(3, ip4(protoTCP, ipA, ipB, 0x2000, tcp(1, 80, "first fragment")))
	e.reaches(3, ip4(protoTCP, ipA, ipB, 0x2064, tcp(1, 80, "middle fragment")))
	e.reaches(3, ip4(protoTCP, ipA, ipB, 0x0064, tcp(1, 80, "last fragment")))

	e.addFragments6()
	e.reaches(1, summed(ip6(protoTCP, ip6A, ip6B, tcp(1, 80, "whole"))))
	e.reaches(3, fragment6(1, "first fragment"))
	e.reaches(3, fragment6(8|1, "middle fragment"))
	e.reaches(3, fragment6(8, "last fragment"))
}

// caseMatchAtomic: a fragment that is the whole packet is none (RFC 6946).
func caseMatchAtomic(e *env) {
	e.addFragments6()
	e.reaches(1, fragment6(0, "all of it"))
}

var ip6A, ip6B = [16]byte{0xfd, 15: 1}, [16]byte{0xfd, 15: 2}

// addFragments6 sends whole TCP packets over IPv6 to port 1, others with a TCP port to
// port 2, and the rest to port 3.
func (e *env) addFragments6() {
	e.add(
		ofctl.Flow{Priority: 3, Match: ofctl.TCP6(ofctl.NotFragment(), ofctl.TCPDst(80)), Apply: e.to(1)},
		ofctl.Flow{Priority: 2, Match: ofctl.TCP6(ofctl.TCPDst(80)), Apply: e.to(2)},
		ofctl.Flow{Priority: 1, Match: ofctl.IP6(), Apply: e.to(3)},
	)
}

// fragment6 is a TCP packet over IPv6 behind a fragment header with that low byte of offset and
// flag.
func fragment6(offset byte, data string) []byte {
	return ip6(44, ip6A, ip6B, slices.Concat([]byte{protoTCP, 0, 0, offset, 0, 0, 0, 9}, tcp(1, 80, data)))
}

// arp is an ARP frame, as A would broadcast it.
func arp(op uint16, spa, tpa [4]byte) []byte {
	b := []byte{0, 1, 8, 0, 6, 4}
	b = binary.BigEndian.AppendUint16(b, op)
	b = slices.Concat(b, macA[:], spa[:], make([]byte, 6), tpa[:])
	return ethernet([6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, macA, etherARP, b)
}

func caseMatchARP(e *env) {
	e.add(
		ofctl.Flow{Priority: 2, Match: ofctl.ARP(ofctl.ARPOp(1), ofctl.ARPTPA(prefix("10.0.0.2/32"))), Apply: e.to(1)},
		ofctl.Flow{Priority: 1, Match: ofctl.ARP(ofctl.ARPSPA(prefix("10.0.0.0/24"))), Apply: e.to(2)},
	)
	e.reaches(1, arp(1, ipA, ipB))
	e.reaches(2, arp(2, ipA, ipB))
	e.reaches(0, arp(2, ipC, ipB))
	e.reaches(0, tcpAB(1, 2, "x"))
}

func caseMatchICMP(e *env) {
	e.add(
		ofctl.Flow{Match: ofctl.ICMP4(ofctl.ICMPType(3), ofctl.ICMPCode(4)), Apply: e.to(1)},
		ofctl.Flow{Match: ofctl.ICMP4(ofctl.ICMPType(8)), Apply: e.to(2)},
	)
	icmp := func(typ, code byte) []byte {
		return summed(ip4(protoICMP, ipA, ipB, 0, []byte{typ, code, 0, 0, 0, 0, 5, 0xdc, 1, 2, 3, 4}))
	}
	e.reaches(1, icmp(3, 4))
	e.reaches(0, icmp(3, 3))
	e.reaches(2, icmp(8, 0))
	e.reaches(0, tcpAB(3<<8|4, 8, "x"))

	a, b := [16]byte{0xfd, 15: 1}, [16]byte{0xfd, 15: 2}
	icmp6 := func(typ, code byte) []byte {
		return summed(ip6(protoICMP6, a, b, []byte{typ, code, 0, 0, 0, 0, 5, 0xdc, 1, 2, 3, 4}))
	}
	e.add(
		ofctl.Flow{Match: ofctl.ICMP6(ofctl.ICMP6Type(2), ofctl.ICMP6Code(0)), Apply: e.to(1)},
		ofctl.Flow{Match: ofctl.ICMP6(ofctl.ICMP6Type(1)), Apply: e.to(2)},
	)
	e.reaches(1, icmp6(2, 0))
	e.reaches(0, icmp6(2, 1))
	e.reaches(2, icmp6(1, 4))
	e.reaches(0, icmp6(3, 0))
}

func caseMatchIPv6(e *env) {
	a, b := [16]byte{0xfd, 15: 1}, [16]byte{0xfd, 15: 2}
	udp6 := ofctl.Match{ofctl.EthType(etherIPv6), ofctl.IPProto(protoUDP), ofctl.UDPDst(53)}
	e.add(
		ofctl.Flow{Priority: 2, Match: udp6, Apply: e.to(1)},
		ofctl.Flow{Priority: 1, Match: udp6[:2], Apply: e.to(2)},
	)
	e.reaches(1, summed(ip6(protoUDP, a, b, udp(1, 53, "x"))))
	hop := slices.Concat([]byte{protoUDP, 0, 1, 4, 0, 0, 0, 0}, udp(1, 53, "x"))
	e.reaches(1, summed(ip6(0, a, b, hop)))
	later := slices.Concat([]byte{protoUDP, 0, 0, 0x10, 0, 0, 0, 9}, udp(1, 53, "x"))
	e.reaches(0, ip6(44, a, b, later)) // its protocol is "fragment"
	other := slices.Concat([]byte{protoUDP, 0, 1, 4, 0, 0, 0, 0}, udp(1, 54, "x"))
	e.reaches(2, summed(ip6(60, a, b, other)))
	e.reaches(0, tcpAB(1, 53, "x"))
}
