package ofctl_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/ofctl"
)

var (
	macA = [6]byte{2, 0, 0, 0, 0, 0xa}
	macB = [6]byte{2, 0, 0, 0, 0, 0xb}
)

func host(s string) netip.Prefix   { return ofctl.Host(netip.MustParseAddr(s)) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// flowTexts is Go value | literal ovs-ofctl text. TestIntegrationFlowTexts puts
// each row into a real switch in both ways.
func flowTexts() []struct {
	name string
	flow ofctl.Flow
	text string
} {
	set := func(f ofctl.Field) ofctl.Action { return ofctl.SetField{Field: f} }
	out := func(p uint32) ofctl.Action { return ofctl.Output{Port: p} }
	type as = []ofctl.Action
	return []struct {
		name string
		flow ofctl.Flow
		text string
	}{
		{"zero", ofctl.Flow{}, "table=0,priority=0 actions=drop"},
		{"normal", ofctl.Flow{Apply: as{ofctl.Normal()}}, "table=0,priority=0 actions=NORMAL"},
		{"cookie and default priority", ofctl.Flow{Priority: 32768, Cookie: 0x5eed, Apply: as{ofctl.Normal()}},
			"cookie=0x5eed,table=0,priority=32768 actions=NORMAL"},
		{"inbound gate", ofctl.Flow{Priority: 300, HardTimeout: 30, Match: ofctl.TCP4(ofctl.InPort(1), ofctl.Untagged(),
			ofctl.NotFragment(), ofctl.IPv4Src(host("192.0.2.2")), ofctl.IPv4Dst(host("192.0.2.1")),
			ofctl.PortRange(ofctl.TCPDst(0xf000), 0xf000)), Goto: 10},
			"table=0,priority=300,hard_timeout=30,tcp,in_port=1,vlan_tci=0x0000/0x1fff,nw_src=192.0.2.2,nw_dst=192.0.2.1," +
				"nw_frag=no,tp_dst=0xf000/0xf000 actions=goto_table:10"},
		{"outbound gate", ofctl.Flow{Priority: 300, HardTimeout: 25, Match: ofctl.TCP4(ofctl.InPort(3), ofctl.Untagged(),
			ofctl.EthSrc(macA), ofctl.EthDst(macB), ofctl.NotFragment(), ofctl.IPv4Src(host("10.0.0.1")),
			ofctl.IPv4Dst(host("10.0.0.2"))), Goto: 20},
			"table=0,priority=300,hard_timeout=25,tcp,in_port=3,vlan_tci=0x0000/0x1fff,dl_src=02:00:00:00:00:0a," +
				"dl_dst=02:00:00:00:00:0b,nw_src=10.0.0.1,nw_dst=10.0.0.2,nw_frag=no actions=goto_table:20"},
		{"outbound flow", ofctl.Flow{Table: 20, Priority: 100, IdleTimeout: 60, SendFlowRemoved: true,
			Match: ofctl.TCP4(ofctl.InPort(3), ofctl.IPv4Src(host("10.0.0.1")), ofctl.IPv4Dst(host("10.0.0.2")),
				ofctl.TCPSrc(40000), ofctl.TCPDst(80)),
			Apply: as{set(ofctl.IPv4Src(host("192.0.2.1"))), set(ofctl.IPv4Dst(host("192.0.2.2"))),
				set(ofctl.TCPSrc(61441)), set(ofctl.TCPDst(61442)), ofctl.ToGroup{ID: 1}}},
			"table=20,priority=100,idle_timeout=60,send_flow_rem,tcp,in_port=3,nw_src=10.0.0.1,nw_dst=10.0.0.2,tp_src=40000,tp_dst=80 " +
				"actions=set_field:192.0.2.1->ip_src,set_field:192.0.2.2->ip_dst,set_field:61441->tcp_src,set_field:61442->tcp_dst,group:1"},
		{"inbound flow", ofctl.Flow{Table: 10, Priority: 100,
			Match: ofctl.TCP4(ofctl.InPort(1), ofctl.TCPSrc(61442), ofctl.TCPDst(61441)),
			Apply: as{set(ofctl.EthSrc(macB)), set(ofctl.EthDst(macA)), out(3)}},
			"table=10,priority=100,tcp,in_port=1,tp_src=61442,tp_dst=61441 " +
				"actions=set_field:02:00:00:00:00:0b->eth_src,set_field:02:00:00:00:00:0a->eth_dst,output:3"},
		{"guard", ofctl.Flow{Priority: 290, HardTimeout: 120, Match: ofctl.TCP4(ofctl.InPort(1),
			ofctl.PortRange(ofctl.TCPDst(0xffff), 0xf000)), Apply: as{ofctl.ToController(64)}},
			"table=0,priority=290,hard_timeout=120,tcp,in_port=1,tp_dst=0xf000/0xf000 actions=CONTROLLER:64"},
		{"ICMP error to host and us", ofctl.Flow{Priority: 400, Match: ofctl.ICMP4(ofctl.InPort(1), ofctl.ICMPType(3),
			ofctl.IPv4Dst(host("192.0.2.1"))), Apply: as{out(ofctl.PortLocal), ofctl.ToController(128)}},
			"table=0,priority=400,icmp,in_port=1,nw_dst=192.0.2.1,icmp_type=3 actions=LOCAL,CONTROLLER:128"},
		{"ICMP code", ofctl.Flow{Match: ofctl.ICMP4(ofctl.ICMPType(3), ofctl.ICMPCode(4))},
			"table=0,priority=0,icmp,icmp_type=3,icmp_code=4 actions=drop"},
		{"ARP", ofctl.Flow{Match: ofctl.ARP(ofctl.ARPOp(1), ofctl.ARPSPA(host("10.0.0.1")), ofctl.ARPTPA(prefix("10.0.0.0/24"))),
			Apply: as{out(ofctl.PortAll)}},
			"table=0,priority=0,arp,arp_spa=10.0.0.1,arp_tpa=10.0.0.0/24,arp_op=1 actions=ALL"},
		{"ARP answered", ofctl.Flow{Match: ofctl.ARP(), Apply: as{set(ofctl.ARPOp(2)), set(ofctl.ARPSPA(host("10.0.0.9"))), out(ofctl.PortInPort)}},
			"table=0,priority=0,arp actions=set_field:2->arp_op,set_field:10.0.0.9->arp_spa,IN_PORT"},
		{"UDP", ofctl.Flow{Match: ofctl.UDP4(ofctl.UDPSrc(53), ofctl.PortRange(ofctl.UDPDst(0x8000), 0x8000)), Apply: as{set(ofctl.UDPDst(5353)), out(ofctl.PortFlood)}},
			"table=0,priority=0,udp,tp_src=53,tp_dst=0x8000/0x8000 actions=set_field:5353->udp_dst,FLOOD"},
		{"whole port mask", ofctl.Flow{Match: ofctl.TCP4(ofctl.PortRange(ofctl.TCPDst(80), 0xffff))},
			"table=0,priority=0,tcp,tp_dst=80 actions=drop"},
		{"empty masks", ofctl.Flow{Match: ofctl.TCP4(ofctl.PortRange(ofctl.TCPDst(80), 0), ofctl.IPv4Src(prefix("0.0.0.0/0")))},
			"table=0,priority=0,tcp actions=drop"},
		{"prefixes", ofctl.Flow{Match: ofctl.IP4(ofctl.IPv4Src(prefix("10.1.2.3/8")), ofctl.IPv4Dst(prefix("10.0.0.0/31")))},
			"table=0,priority=0,ip,nw_src=10.0.0.0/8,nw_dst=10.0.0.0/31 actions=drop"},
		{"TTL, DSCP, ECN", ofctl.Flow{Match: ofctl.IP4(ofctl.TTL(255), ofctl.IPDSCP(46), ofctl.IPECN(3)), Apply: as{set(ofctl.IPDSCP(10)), set(ofctl.IPECN(1)), set(ofctl.TTL(64))}},
			"table=0,priority=0,ip,nw_tos=184,nw_ecn=3,nw_ttl=255 actions=set_field:10->ip_dscp,set_field:1->nw_ecn,set_field:64->nw_ttl"},
		{"other protocol", ofctl.Flow{Match: ofctl.IP4(ofctl.IPProto(47))},
			"table=0,priority=0,ip,nw_proto=47 actions=drop"},
		{"other EtherType", ofctl.Flow{Match: ofctl.Match{ofctl.EthType(0x88cc)}},
			"table=0,priority=0,dl_type=0x88cc actions=drop"},
		{"IPv6", ofctl.Flow{Match: ofctl.Match{ofctl.EthType(0x86dd), ofctl.IPv6Src(prefix("fe80::/10")), ofctl.IPv6Dst(host("2001:db8::1"))}},
			"table=0,priority=0,ipv6,ipv6_src=fe80::/10,ipv6_dst=2001:db8::1 actions=drop"},
		{"TCP over IPv6", ofctl.Flow{Match: ofctl.Match{ofctl.EthType(0x86dd), ofctl.IPProto(6), ofctl.TCPDst(80)}, Apply: as{set(ofctl.IPv6Dst(host("2001:db8::2"))), out(2)}},
			"table=0,priority=0,tcp6,tp_dst=80 actions=set_field:2001:db8::2->ipv6_dst,output:2"},
		{"ICMPv6", ofctl.Flow{Match: ofctl.ICMP6()}, "table=0,priority=0,icmp6 actions=drop"},
		{"ICMPv6 error to host and on", ofctl.Flow{Priority: 290, Match: ofctl.ICMP6(ofctl.InPort(1), ofctl.Untagged(), ofctl.NotFragment(),
			ofctl.IPv6Dst(host("fd00::1")), ofctl.ICMP6Type(2), ofctl.ICMP6Code(0)), Apply: as{ofctl.Normal()}, Goto: 10},
			"table=0,priority=290,icmp6,in_port=1,vlan_tci=0x0000/0x1fff,ipv6_dst=fd00::1,nw_frag=no,icmp_type=2,icmp_code=0 actions=NORMAL,goto_table:10"},
		{"gate over IPv6", ofctl.Flow{Priority: 300, Match: ofctl.TCP6(ofctl.InPort(1), ofctl.Untagged(), ofctl.NotFragment(),
			ofctl.IPv6Src(host("fd00::2")), ofctl.IPv6Dst(host("fd00::1")), ofctl.PortRange(ofctl.TCPDst(0xf000), 0xf000)), Goto: 10},
			"table=0,priority=300,tcp6,in_port=1,vlan_tci=0x0000/0x1fff,ipv6_src=fd00::2,ipv6_dst=fd00::1,nw_frag=no,tp_dst=0xf000/0xf000 actions=goto_table:10"},
		{"outbound flow over IPv6", ofctl.Flow{Table: 20, Priority: 100,
			Match: ofctl.UDP6(ofctl.InPort(3), ofctl.EthSrc(macA), ofctl.EthDst(macB), ofctl.IPv6Src(host("fd00:7::1")), ofctl.IPv6Dst(host("fd00:7::2")),
				ofctl.UDPSrc(40000), ofctl.UDPDst(53)),
			Write: as{set(ofctl.IPv6Src(host("fd00::1"))), set(ofctl.IPv6Dst(host("fd00::2"))),
				set(ofctl.UDPSrc(61441)), set(ofctl.UDPDst(61442)), ofctl.ToGroup{ID: 1}}, Goto: 21},
			"table=20,priority=100,udp6,in_port=3,dl_src=02:00:00:00:00:0a,dl_dst=02:00:00:00:00:0b,ipv6_src=fd00:7::1,ipv6_dst=fd00:7::2,tp_src=40000,tp_dst=53 " +
				"actions=write_actions(set_field:fd00::1->ipv6_src,set_field:fd00::2->ipv6_dst,set_field:61441->udp_src,set_field:61442->udp_dst,group:1),goto_table:21"},
		{"outbound gate over IPv6", ofctl.Flow{Table: 21, Priority: 100, Match: ofctl.TCP6(ofctl.Metadata(7, 0))},
			"table=21,priority=100,tcp6,metadata=0x7 actions=drop"},
		{"IPv6 TTL, DSCP, ECN", ofctl.Flow{Match: ofctl.IP6(ofctl.TTL(255), ofctl.IPDSCP(46), ofctl.IPECN(3)), Apply: as{set(ofctl.IPDSCP(10)), set(ofctl.IPECN(1)), set(ofctl.TTL(64))}},
			"table=0,priority=0,ipv6,nw_tos=184,nw_ecn=3,nw_ttl=255 actions=set_field:10->ip_dscp,set_field:1->nw_ecn,set_field:64->nw_ttl"},
		{"IPv6 prefixes", ofctl.Flow{Match: ofctl.IP6(ofctl.IPv6Src(prefix("fd00::/8")), ofctl.IPv6Dst(prefix("fd00:7::/63")), ofctl.IPProto(47))},
			"table=0,priority=0,ipv6,ipv6_src=fd00::/8,ipv6_dst=fd00:7::/63,nw_proto=47 actions=drop"},
		{"VLAN match and pop", ofctl.Flow{Match: ofctl.Match{ofctl.VLAN(7)}, Apply: as{ofctl.PopVLAN{}, out(2)}},
			"table=0,priority=0,dl_vlan=7 actions=pop_vlan,output:2"},
		{"tunnel and metadata", ofctl.Flow{Match: ofctl.Match{ofctl.TunnelID(0x77), ofctl.Metadata(1, 1), ofctl.InPort(3)}, Apply: as{set(ofctl.TunnelID(9)), out(2)}},
			"table=0,priority=0,tun_id=0x77,metadata=0x1/0x1,in_port=3 actions=set_field:0x9->tun_id,output:2"},
		{"VLAN priority", ofctl.Flow{Match: ofctl.Match{ofctl.VLAN(7), ofctl.VLANPCP(3)}, Apply: as{set(ofctl.VLANPCP(5)), out(2)}},
			"table=0,priority=0,dl_vlan=7,dl_vlan_pcp=3 actions=set_field:5->vlan_pcp,output:2"},
		{"any tag", ofctl.Flow{Match: ofctl.Match{ofctl.Masked(ofctl.VLAN(0), 0x1000)}, Apply: as{ofctl.PopVLAN{}}},
			"table=0,priority=0,vlan_tci=0x1000/0x1000 actions=pop_vlan"},
		{"MAC masks", ofctl.Flow{Match: ofctl.Match{ofctl.Masked(ofctl.EthSrc(macA), 0xffffff000000), ofctl.Masked(ofctl.EthDst([6]byte{1}), 1<<40)}},
			"table=0,priority=0,dl_src=02:00:00:00:00:00/ff:ff:ff:00:00:00,dl_dst=01:00:00:00:00:00/01:00:00:00:00:00 actions=drop"},
		{"IPv4 mask that is no prefix", ofctl.Flow{Match: ofctl.IP4(ofctl.Masked(ofctl.IPv4Src(host("10.1.2.3")), 0xff0000ff))},
			"table=0,priority=0,ip,nw_src=10.0.0.3/255.0.0.255 actions=drop"},
		{"flow label", ofctl.Flow{Match: ofctl.IP6(ofctl.IPv6Label(0x12345)), Apply: as{set(ofctl.IPv6Label(0x54)), out(2)}},
			"table=0,priority=0,ipv6,ipv6_label=0x12345 actions=set_field:0x54->ipv6_label,output:2"},
		{"masked flow label", ofctl.Flow{Match: ofctl.IP6(ofctl.Masked(ofctl.IPv6Label(0x12345), 0xf0000))},
			"table=0,priority=0,ipv6,ipv6_label=0x10000/0xf0000 actions=drop"},
		{"SCTP", ofctl.Flow{Match: ofctl.SCTP4(ofctl.SCTPSrc(1), ofctl.PortRange(ofctl.SCTPDst(0x8000), 0x8000)), Apply: as{set(ofctl.SCTPDst(7)), out(2)}},
			"table=0,priority=0,sctp,tp_src=1,tp_dst=0x8000/0x8000 actions=set_field:7->sctp_dst,output:2"},
		{"SCTP over IPv6", ofctl.Flow{Match: ofctl.SCTP6(ofctl.SCTPDst(1))}, "table=0,priority=0,sctp6,tp_dst=1 actions=drop"},
		{"ARP addresses", ofctl.Flow{Match: ofctl.ARP(ofctl.ARPSHA(macA), ofctl.ARPTHA(macB)), Apply: as{set(ofctl.ARPSHA(macB)), set(ofctl.ARPTHA(macA)), out(2)}},
			"table=0,priority=0,arp,arp_sha=02:00:00:00:00:0a,arp_tha=02:00:00:00:00:0b actions=set_field:02:00:00:00:00:0b->arp_sha,set_field:02:00:00:00:00:0a->arp_tha,output:2"},
		{"neighbour solicitation", ofctl.Flow{Match: ofctl.ICMP6(ofctl.ICMP6Type(135), ofctl.NDTarget(host("fd00::1")), ofctl.NDSLL(macA)), Apply: as{set(ofctl.NDTarget(host("fd00::2"))), set(ofctl.NDSLL(macB)), out(2)}},
			"table=0,priority=0,icmp6,icmp_type=135,nd_target=fd00::1,nd_sll=02:00:00:00:00:0a actions=set_field:fd00::2->nd_target,set_field:02:00:00:00:00:0b->nd_sll,output:2"},
		{"neighbour advertisement", ofctl.Flow{Match: ofctl.ICMP6(ofctl.ICMP6Type(136), ofctl.NDTarget(prefix("fd00::/16")), ofctl.NDTLL(macA))},
			"table=0,priority=0,icmp6,icmp_type=136,nd_target=fd00::/16,nd_tll=02:00:00:00:00:0a actions=drop"},
		{"queue", ofctl.Flow{Apply: as{ofctl.SetQueue{ID: 3}, out(2)}}, "table=0,priority=0 actions=set_queue:3,output:2"},
		{"no counts", ofctl.Flow{NoPacketCounts: true, NoByteCounts: true, SendFlowRemoved: true},
			"table=0,priority=0,send_flow_rem,no_packet_counts,no_byte_counts actions=drop"},
		{"VLAN push", ofctl.Flow{Match: ofctl.Match{ofctl.InPort(2), ofctl.Untagged()}, Apply: as{ofctl.PushVLAN{}, set(ofctl.VLAN(7)), out(1)}},
			"table=0,priority=0,in_port=2,vlan_tci=0x0000/0x1fff actions=push_vlan:0x8100,set_field:4103->vlan_vid,output:1"},
		{"route", ofctl.Flow{Match: ofctl.IP4(), Apply: as{ofctl.DecTTL{}, ofctl.ToGroup{ID: 1}}},
			"table=0,priority=0,ip actions=dec_ttl,group:1"},
		{"metadata", ofctl.Flow{Match: ofctl.Match{ofctl.Metadata(0x15, 0xff)}, Metadata: ofctl.MetadataWrite{Value: 0x123, Mask: 0xff}, Goto: 3},
			"table=0,priority=0,metadata=0x15/0xff actions=write_metadata:0x23/0xff,goto_table:3"},
		{"whole metadata", ofctl.Flow{Match: ofctl.Match{ofctl.Metadata(7, 0)}, Metadata: ofctl.MetadataWrite{Value: 9, Mask: ^uint64(0)}, Goto: 3},
			"table=0,priority=0,metadata=0x7 actions=write_metadata:0x9,goto_table:3"},
		{"action set", ofctl.Flow{Match: ofctl.IP4(), Apply: as{out(4)}, Clear: true,
			Write: as{set(ofctl.EthDst(macB)), ofctl.ToGroup{ID: 1}}, Goto: 1},
			"table=0,priority=0,ip actions=output:4,clear_actions,write_actions(set_field:02:00:00:00:00:0b->eth_dst,group:1),goto_table:1"},
		{"tether", ofctl.Flow{Table: 22, Cookie: 0x5eed, HardTimeout: 30, Match: ofctl.Match{ofctl.Metadata(7, 0)},
			Apply: as{ofctl.Tether{Table: 20, Cookie: 0x5eed}, ofctl.Tether{Table: 10}}},
			"cookie=0x5eed,table=22,priority=0,hard_timeout=30,metadata=0x7 " +
				"actions=learn(table=20,delete_learned,cookie=0x5eed),learn(table=10,delete_learned)"},
		{"in port LOCAL", ofctl.Flow{Match: ofctl.Match{ofctl.InPort(ofctl.PortLocal)}, Apply: as{ofctl.ToController(0xffff)}},
			"table=0,priority=0,in_port=LOCAL actions=CONTROLLER:65535"},
	}
}

func TestFlowTexts(t *testing.T) {
	require.GreaterOrEqual(t, len(flowTexts()), 25)
	for _, row := range flowTexts() {
		require.Equal(t, row.text, row.flow.String(), row.name)
	}
}

func TestModAndGroupTexts(t *testing.T) {
	flow := ofctl.Flow{Table: 1, Priority: 9, Cookie: 0x70, IdleTimeout: 3, Match: ofctl.IP4(), Apply: []ofctl.Action{ofctl.Normal()}}
	bucket := ofctl.Bucket{Actions: []ofctl.Action{ofctl.SetField{Field: ofctl.EthSrc(macA)}, ofctl.Output{Port: 1}}}
	for text, value := range map[string]ofctl.Mod{
		"flow add cookie=0x70,table=1,priority=9,idle_timeout=3,ip actions=NORMAL":                        ofctl.FlowMod{Flow: flow},
		"flow modify table=1,ip actions=NORMAL":                                                           ofctl.FlowMod{Command: ofctl.Modify, Flow: flow},
		"flow modify_strict cookie=0x70/0xf0,table=1,priority=9,ip actions=NORMAL":                        ofctl.FlowMod{Command: ofctl.ModifyStrict, Flow: flow, CookieMask: 0xf0},
		"flow delete cookie=0x70/0xff,table=1,ip":                                                         ofctl.FlowMod{Command: ofctl.Delete, Flow: flow, CookieMask: 0xff},
		"flow delete_strict table=1,priority=9,ip":                                                        ofctl.FlowMod{Command: ofctl.DeleteStrict, Flow: flow},
		"flow delete cookie=0x1/0x1":                                                                      ofctl.FlowMod{Command: ofctl.Delete, Flow: ofctl.Flow{Table: ofctl.TableAll, Cookie: 1}, CookieMask: 1},
		"group add group_id=1,type=indirect,bucket=actions=set_field:02:00:00:00:00:0a->eth_src,output:1": ofctl.GroupMod{Group: ofctl.Group{ID: 1, Type: ofctl.GroupIndirect, Buckets: []ofctl.Bucket{bucket}}},
		"group modify group_id=2,type=select,bucket=weight:5,actions=drop":                                ofctl.GroupMod{Command: ofctl.Modify, Group: ofctl.Group{ID: 2, Type: ofctl.GroupSelect, Buckets: []ofctl.Bucket{{Weight: 5}}}},
		"group add group_id=3,type=ff,bucket=watch_port:1,actions=output:1":                               ofctl.GroupMod{Group: ofctl.Group{ID: 3, Type: ofctl.GroupFastFailover, Buckets: []ofctl.Bucket{{WatchPort: 1, Actions: []ofctl.Action{ofctl.Output{Port: 1}}}}}},
		"group add group_id=4,type=all":                                                                   ofctl.GroupMod{Group: ofctl.Group{ID: 4}},
		"group delete group_id=5":                                                                         ofctl.GroupMod{Command: ofctl.Delete, Group: ofctl.Group{ID: 5}},
	} {
		require.Equal(t, text, value.String())
	}
}
