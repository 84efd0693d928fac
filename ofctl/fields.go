package ofctl

// Prerequisites that several rows share.
var (
	needIPv4  = []prerequisite{{kind: KindEthType, value: 0x0800}}
	needIPv6  = []prerequisite{{kind: KindEthType, value: 0x86dd}}
	needIP    = []prerequisite{{kind: KindEthType, value: 0x0800}, {kind: KindEthType, value: 0x86dd}}
	needARP   = []prerequisite{{kind: KindEthType, value: 0x0806}}
	needTCP   = []prerequisite{{kind: KindIPProto, value: 6}}
	needSCTP  = []prerequisite{{kind: KindIPProto, value: 132}}
	needUDP   = []prerequisite{{kind: KindIPProto, value: 17}}
	needICMP4 = []prerequisite{{kind: KindIPProto, value: 1}}
	needICMP6 = []prerequisite{{kind: KindIPProto, value: 58}}
	// Neighbour solicitation and advertisement (RFC 4861) name a target.
	needND = []prerequisite{{kind: KindICMP6Type, value: 135}, {kind: KindICMP6Type, value: 136}}
	needNS = []prerequisite{{kind: KindICMP6Type, value: 135}}
	needNA = []prerequisite{{kind: KindICMP6Type, value: 136}}
	// A tag, whatever its VLAN.
	needTag = []prerequisite{{kind: KindVLAN, value: 0x1000, mask: 0x1000}}
)

// fields is the field table, indexed by kind and never changed. Row kindCount is
// empty: it stands for every kind that there is not.
var fields = [kindCount + 1]fieldInfo{
	KindTunnelID:  {class: classBasic, num: 38, bits: 64, match: "tun_id", name: "tun_id", maskable: true, settable: true},
	KindMetadata:  {class: classBasic, num: 2, bits: 64, match: "metadata", name: "metadata", maskable: true, settable: true},
	KindInPort:    {class: classBasic, num: 0, bits: 32, match: "in_port", name: "in_port_oxm"},
	KindVLAN:      {class: classBasic, num: 6, bits: 13, match: "vlan_tci", name: "vlan_vid", maskable: true, settable: true},
	KindVLANPCP:   {class: classBasic, num: 7, bits: 3, match: "dl_vlan_pcp", name: "vlan_pcp", needs: needTag, settable: true},
	KindEthSrc:    {class: classBasic, num: 4, bits: 48, match: "dl_src", name: "eth_src", maskable: true, settable: true},
	KindEthDst:    {class: classBasic, num: 3, bits: 48, match: "dl_dst", name: "eth_dst", maskable: true, settable: true},
	KindEthType:   {class: classBasic, num: 5, bits: 16, match: "dl_type", name: "eth_type"},
	KindIPv4Src:   {class: classBasic, num: 11, bits: 32, match: "nw_src", name: "ip_src", needs: needIPv4, maskable: true, settable: true},
	KindIPv4Dst:   {class: classBasic, num: 12, bits: 32, match: "nw_dst", name: "ip_dst", needs: needIPv4, maskable: true, settable: true},
	KindIPv6Src:   {class: classBasic, num: 26, bits: 128, match: "ipv6_src", name: "ipv6_src", needs: needIPv6, maskable: true, settable: true},
	KindIPv6Dst:   {class: classBasic, num: 27, bits: 128, match: "ipv6_dst", name: "ipv6_dst", needs: needIPv6, maskable: true, settable: true},
	KindIPv6Label: {class: classBasic, num: 28, bits: 20, bytes: 4, match: "ipv6_label", name: "ipv6_label", needs: needIPv6, maskable: true, settable: true},
	KindARPSPA:    {class: classBasic, num: 22, bits: 32, match: "arp_spa", name: "arp_spa", needs: needARP, maskable: true, settable: true},
	KindARPTPA:    {class: classBasic, num: 23, bits: 32, match: "arp_tpa", name: "arp_tpa", needs: needARP, maskable: true, settable: true},
	KindIPProto:   {class: classBasic, num: 10, bits: 8, match: "nw_proto", name: "nw_proto", needs: needIP},
	KindARPOp:     {class: classBasic, num: 21, bits: 16, match: "arp_op", name: "arp_op", needs: needARP, settable: true},
	KindARPSHA:    {class: classBasic, num: 24, bits: 48, match: "arp_sha", name: "arp_sha", needs: needARP, maskable: true, settable: true},
	KindARPTHA:    {class: classBasic, num: 25, bits: 48, match: "arp_tha", name: "arp_tha", needs: needARP, maskable: true, settable: true},
	KindIPDSCP:    {class: classBasic, num: 8, bits: 6, match: "nw_tos", name: "ip_dscp", needs: needIP, settable: true},
	KindIPECN:     {class: classBasic, num: 9, bits: 2, match: "nw_ecn", name: "nw_ecn", needs: needIP, settable: true},
	KindTTL:       {class: classNXM1, num: 29, bits: 8, match: "nw_ttl", name: "nw_ttl", needs: needIP, settable: true},
	KindFrag:      {class: classNXM1, num: 26, bits: 2, match: "nw_frag", name: "nw_frag", needs: needIP, maskable: true},
	KindTCPSrc:    {class: classBasic, num: 13, bits: 16, match: "tp_src", name: "tcp_src", needs: needTCP, maskable: true, settable: true},
	KindTCPDst:    {class: classBasic, num: 14, bits: 16, match: "tp_dst", name: "tcp_dst", needs: needTCP, maskable: true, settable: true},
	KindUDPSrc:    {class: classBasic, num: 15, bits: 16, match: "tp_src", name: "udp_src", needs: needUDP, maskable: true, settable: true},
	KindUDPDst:    {class: classBasic, num: 16, bits: 16, match: "tp_dst", name: "udp_dst", needs: needUDP, maskable: true, settable: true},
	KindSCTPSrc:   {class: classBasic, num: 17, bits: 16, match: "tp_src", name: "sctp_src", needs: needSCTP, maskable: true, settable: true},
	KindSCTPDst:   {class: classBasic, num: 18, bits: 16, match: "tp_dst", name: "sctp_dst", needs: needSCTP, maskable: true, settable: true},
	KindICMP4Type: {class: classBasic, num: 19, bits: 8, match: "icmp_type", name: "icmp_type", ether: 0x0800, needs: needICMP4, settable: true},
	KindICMP4Code: {class: classBasic, num: 20, bits: 8, match: "icmp_code", name: "icmp_code", ether: 0x0800, needs: needICMP4, settable: true},
	KindICMP6Type: {class: classBasic, num: 29, bits: 8, match: "icmp_type", name: "icmpv6_type", ether: 0x86dd, needs: needICMP6, settable: true},
	KindICMP6Code: {class: classBasic, num: 30, bits: 8, match: "icmp_code", name: "icmpv6_code", ether: 0x86dd, needs: needICMP6, settable: true},
	KindNDTarget:  {class: classBasic, num: 31, bits: 128, match: "nd_target", name: "nd_target", needs: needND, maskable: true, settable: true},
	KindNDSLL:     {class: classBasic, num: 32, bits: 48, match: "nd_sll", name: "nd_sll", needs: needNS, maskable: true, settable: true},
	KindNDTLL:     {class: classBasic, num: 33, bits: 48, match: "nd_tll", name: "nd_tll", needs: needNA, maskable: true, settable: true},
}
