package ofpath

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/tap"
)

var (
	testFlow = bypass.Flow{
		Proto: bypass.TCP,
		Src:   netip.MustParseAddrPort("192.168.7.1:40000"), Dst: netip.MustParseAddrPort("192.168.7.9:80"),
	}
	testRule = bypass.Rule{
		ID: 0x2a, Direction: bypass.Outbound, Flow: testFlow,
		Local: netip.MustParseAddrPort("10.1.0.1:61731"), Remote: netip.MustParseAddrPort("10.1.0.2:62550"),
		LocalMAC: tap.MAC{2, 0xa, 0, 0, 0, 1}, RemoteMAC: tap.MAC{2, 0xb, 0, 0, 0, 1},
		Ofport: 3, Hop: 1, Peer: 5, Idle: time.Minute,
	}
	testLease = bypass.Lease{
		Peer: 5, Proto: bypass.TCP, Local: testRule.Local.Addr(), Remote: testRule.Remote.Addr(),
		Outbound: 25 * time.Second, Inbound: 30 * time.Second,
	}
)

func testLayout() layout {
	return layout{cfg: Config{}.withDefaults(), epoch: 0x4d, ports: bypass.DefaultPorts, uplink: 1}
}

func as(r bypass.Rule, change func(*bypass.Rule)) bypass.Rule {
	change(&r)
	return r
}

// TestFlows pairs what a Datapath is told with the words of ovs-ofctl.
func TestFlows(t *testing.T) {
	l := testLayout()
	inbound := as(testRule, func(r *bypass.Rule) { r.Direction, r.ID = bypass.Inbound, 0x2b })
	listen := as(testRule, func(r *bypass.Rule) {
		r.Direction, r.ID, r.Hard, r.Idle = bypass.Listen, 7, 4*time.Second, 0
		r.Remote = netip.AddrPortFrom(r.Remote.Addr(), 0)
	})
	udp := func(r *bypass.Rule) { r.Flow.Proto = bypass.UDP }
	udpLease := testLease
	udpLease.Proto = bypass.UDP
	udpHalf := udpLease
	udpHalf.Inbound = 0
	w := bypass.Workload{Ofport: 3, MAC: testRule.LocalMAC, IPs: []netip.Addr{testFlow.Src.Addr()}}
	pair := bypass.AddrPair{Local: testLease.Local, Remote: testLease.Remote}
	out6 := as(testRule, func(r *bypass.Rule) {
		r.Flow.Src, r.Flow.Dst = netip.MustParseAddrPort("[fd00:7::1]:40000"), netip.MustParseAddrPort("[fd00:7::9]:80")
		r.Local, r.Remote = netip.MustParseAddrPort("[fd00:1::1]:61731"), netip.MustParseAddrPort("[fd00:1::2]:62550")
	})
	in6 := as(out6, func(r *bypass.Rule) { r.Direction, r.Flow.Proto = bypass.Inbound, bypass.UDP })
	listen6 := as(out6, func(r *bypass.Rule) {
		r.Direction, r.Hard, r.Remote = bypass.Listen, 4*time.Second, netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	})
	pair6 := bypass.AddrPair{Local: out6.Local.Addr(), Remote: out6.Remote.Addr()}
	lease6 := testLease
	lease6.Local, lease6.Remote = pair6.Local, pair6.Remote
	errors4, errors6 := l.errors([]bypass.AddrPair{pair, pair}), l.errors([]bypass.AddrPair{pair6})
	for _, c := range []struct {
		name string
		flow ofctl.Flow
		want string
	}{
		{"outbound", l.rule(testRule), `cookie=0x7661004d00000005,table=20,priority=100,idle_timeout=60,send_flow_rem,
			tcp,in_port=3,dl_src=02:0a:00:00:00:01,dl_dst=02:0b:00:00:00:01,nw_src=192.168.7.1,nw_dst=192.168.7.9,tp_src=40000,tp_dst=80
			 actions=write_actions(set_field:10.1.0.1->ip_src,set_field:10.1.0.2->ip_dst,set_field:61731->tcp_src,set_field:62550->tcp_dst,group:1986068481),
			write_metadata:0x4d000005,goto_table:21`},
		{"outbound udp", l.rule(as(testRule, udp)), `cookie=0x7661004d00000005,table=20,priority=100,idle_timeout=60,send_flow_rem,
			udp,in_port=3,dl_src=02:0a:00:00:00:01,dl_dst=02:0b:00:00:00:01,nw_src=192.168.7.1,nw_dst=192.168.7.9,tp_src=40000,tp_dst=80
			 actions=write_actions(set_field:10.1.0.1->ip_src,set_field:10.1.0.2->ip_dst,set_field:61731->udp_src,set_field:62550->udp_dst,group:1986068481),
			write_metadata:0x4d000005,goto_table:21`},
		{"inbound", l.rule(inbound), `cookie=0x7661004d00000005,table=10,priority=100,send_flow_rem,
			tcp,in_port=1,nw_src=10.1.0.2,nw_dst=10.1.0.1,tp_src=62550,tp_dst=61731
			 actions=set_field:02:0b:00:00:00:01->eth_src,set_field:02:0a:00:00:00:01->eth_dst,
			set_field:192.168.7.9->ip_src,set_field:192.168.7.1->ip_dst,set_field:80->tcp_src,set_field:40000->tcp_dst,output:3`},
		{"listen", l.rule(listen), `cookie=0x7661004d80000000,table=0,priority=310,hard_timeout=4,send_flow_rem,
			tcp,in_port=1,vlan_tci=0x0000/0x1fff,nw_src=10.1.0.2,nw_dst=10.1.0.1,nw_frag=no,tp_dst=61731 actions=CONTROLLER:65535`},
		{"listen udp, one port", l.rule(as(listen, func(r *bypass.Rule) { udp(r); r.Remote = testRule.Remote })),
			`cookie=0x7661004d80000000,table=0,priority=310,hard_timeout=4,send_flow_rem,
			udp,in_port=1,vlan_tci=0x0000/0x1fff,nw_src=10.1.0.2,nw_dst=10.1.0.1,nw_frag=no,tp_src=62550,tp_dst=61731 actions=CONTROLLER:65535`},
		{"inbound gate", l.inboundGate(testLease), `cookie=0x7661004d00000005,table=0,priority=300,hard_timeout=30,
			tcp,in_port=1,vlan_tci=0x0000/0x1fff,nw_src=10.1.0.2,nw_dst=10.1.0.1,nw_frag=no,tp_dst=0xf000/0xf000 actions=goto_table:10`},
		{"inbound gate udp", l.inboundGate(udpLease), `cookie=0x7661004d00000005,table=0,priority=300,hard_timeout=30,
			udp,in_port=1,vlan_tci=0x0000/0x1fff,nw_src=10.1.0.2,nw_dst=10.1.0.1,nw_frag=no,tp_dst=0xf000/0xf000 actions=goto_table:10`},
		{"outbound gate", l.outboundGate(testLease),
			`cookie=0x7661004d00000005,table=21,priority=100,hard_timeout=25,tcp,metadata=0x4d000005 actions=drop`},
		{"tether", l.tether(lesseeOf(testLease), holds(testLease)), `cookie=0x7661004d00000005,table=22,priority=100,hard_timeout=30,tcp,metadata=0x4d000005
			 actions=learn(table=20,delete_learned,cookie=0x7661004d00000005),learn(table=10,delete_learned,cookie=0x7661004d00000005)`},
		{"tether udp, of one half", l.tether(lesseeOf(udpHalf), holds(udpHalf)), `cookie=0x7661004d00000005,table=22,priority=100,hard_timeout=25,udp,metadata=0x4d000005
			 actions=learn(table=20,delete_learned,cookie=0x7661004d00000005),learn(table=10,delete_learned,cookie=0x7661004d00000005)`},
		{"workload", l.workload(w, w.IPs[0], bypass.TCP), `cookie=0x7661004d00000003,table=0,priority=300,
			tcp,in_port=3,vlan_tci=0x0000/0x1fff,dl_src=02:0a:00:00:00:01,nw_src=192.168.7.1,nw_frag=no actions=goto_table:20`},
		{"guard", l.guard(pair, bypass.TCP), `table=0,priority=290,
			tcp,in_port=1,nw_src=10.1.0.2,nw_dst=10.1.0.1,tp_dst=0xf000/0xf000 actions=CONTROLLER:96`},
		{"outbound v6", l.rule(out6), `cookie=0x7661004d00000005,table=20,priority=100,idle_timeout=60,send_flow_rem,
			tcp6,in_port=3,dl_src=02:0a:00:00:00:01,dl_dst=02:0b:00:00:00:01,ipv6_src=fd00:7::1,ipv6_dst=fd00:7::9,tp_src=40000,tp_dst=80
			 actions=write_actions(set_field:fd00:1::1->ipv6_src,set_field:fd00:1::2->ipv6_dst,set_field:61731->tcp_src,set_field:62550->tcp_dst,group:1986068481),
			write_metadata:0x4d000005,goto_table:21`},
		{"inbound udp v6", l.rule(in6), `cookie=0x7661004d00000005,table=10,priority=100,send_flow_rem,
			udp6,in_port=1,ipv6_src=fd00:1::2,ipv6_dst=fd00:1::1,tp_src=62550,tp_dst=61731
			 actions=set_field:02:0b:00:00:00:01->eth_src,set_field:02:0a:00:00:00:01->eth_dst,
			set_field:fd00:7::9->ipv6_src,set_field:fd00:7::1->ipv6_dst,set_field:80->udp_src,set_field:40000->udp_dst,output:3`},
		{"listen v6, to anybody", l.rule(listen6), `cookie=0x7661004d80000000,table=0,priority=310,hard_timeout=4,send_flow_rem,
			tcp6,in_port=1,vlan_tci=0x0000/0x1fff,ipv6_dst=fd00:1::1,nw_frag=no,tp_dst=61731 actions=CONTROLLER:65535`},
		{"inbound gate v6", l.inboundGate(lease6), `cookie=0x7661004d00000005,table=0,priority=300,hard_timeout=30,
			tcp6,in_port=1,vlan_tci=0x0000/0x1fff,ipv6_src=fd00:1::2,ipv6_dst=fd00:1::1,nw_frag=no,tp_dst=0xf000/0xf000 actions=goto_table:10`},
		{"outbound gate v6", l.outboundGate(lease6),
			`cookie=0x7661004d00000005,table=21,priority=100,hard_timeout=25,tcp6,metadata=0x4d000005 actions=drop`},
		{"tether v6", l.tether(lesseeOf(lease6), holds(lease6)), `cookie=0x7661004d00000005,table=22,priority=100,hard_timeout=30,tcp6,metadata=0x4d000005
			 actions=learn(table=20,delete_learned,cookie=0x7661004d00000005),learn(table=10,delete_learned,cookie=0x7661004d00000005)`},
		{"workload v6", l.workload(w, out6.Flow.Src.Addr(), bypass.UDP), `cookie=0x7661004d00000003,table=0,priority=300,
			udp6,in_port=3,vlan_tci=0x0000/0x1fff,dl_src=02:0a:00:00:00:01,ipv6_src=fd00:7::1,nw_frag=no actions=goto_table:20`},
		{"guard v6", l.guard(pair6, bypass.UDP), `table=0,priority=290,
			udp6,in_port=1,ipv6_src=fd00:1::2,ipv6_dst=fd00:1::1,tp_dst=0xf000/0xf000 actions=CONTROLLER:96`},
		{"ICMP error", errors4[1], `table=0,priority=290,
			icmp,in_port=1,vlan_tci=0x0000/0x1fff,nw_dst=10.1.0.1,nw_frag=no,icmp_type=3 actions=NORMAL,goto_table:10`},
		{"ICMPv6 error", errors6[2], `table=0,priority=290,
			icmp6,in_port=1,vlan_tci=0x0000/0x1fff,ipv6_dst=fd00:1::1,nw_frag=no,icmp_type=2 actions=NORMAL,goto_table:10`},
		{"ICMP error's copy", errors4[0], `cookie=0x7661004d80000001,table=10,priority=50,icmp actions=CONTROLLER:65535`},
		{"ICMPv6 error's copy", errors6[0], `cookie=0x7661004d80000001,table=10,priority=50,icmp6 actions=CONTROLLER:65535`},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := strings.NewReplacer("\n\t\t\t actions", " actions", "\n", "", "\t", "").Replace(c.want)
			require.Equal(t, want, c.flow.String())
			require.NoError(t, c.flow.Match.Check())
		})
	}
	require.Len(t, errors4, 1+3, "each address of ours once")
	require.Len(t, errors6, 1+4)
	require.Empty(t, l.errors(nil))
	require.Equal(t, "group_id=1986068481,type=indirect,bucket=actions=set_field:02:0c:00:00:00:01->eth_src,"+
		"set_field:02:0c:00:00:00:02->eth_dst,output:1",
		l.hop(bypass.Hop{ID: 1, Src: tap.MAC{2, 0xc, 0, 0, 0, 1}, Dst: tap.MAC{2, 0xc, 0, 0, 0, 2}}).String())
}

// TestStat: what a rule became can be read back, but for what a switch does not tell.
func TestStat(t *testing.T) {
	l := testLayout()
	for _, dir := range []bypass.Direction{bypass.Outbound, bypass.Inbound, bypass.Listen} {
		for i, proto := range []bypass.Proto{bypass.TCP, bypass.UDP, bypass.TCP, bypass.UDP} {
			r := as(testRule, func(r *bypass.Rule) { r.Direction, r.Flow.Proto = dir, proto })
			if i >= 2 {
				r.Flow.Src, r.Flow.Dst = netip.MustParseAddrPort("[fd00:7::1]:40000"), netip.MustParseAddrPort("[fd00:7::9]:80")
				r.Local, r.Remote = netip.MustParseAddrPort("[fd00:1::1]:61731"), netip.MustParseAddrPort("[fd00:1::2]:62550")
				if dir == bypass.Listen {
					r.Remote = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
				}
			}
			want := r
			want.ID = 0
			switch dir {
			case bypass.Inbound:
				want.Hop, want.Idle = 0, 0
			case bypass.Listen:
				r.Hard = time.Second
				want = bypass.Rule{
					Direction: dir, Flow: bypass.Flow{Proto: proto}, Local: r.Local, Remote: r.Remote, Hard: time.Second,
				}
			}
			got, ok := l.cfg.stat(ofctl.FlowStat{Flow: l.rule(r), Packets: 3, Bytes: 200})
			require.True(t, ok)
			require.Equal(t, bypass.RuleStat{Epoch: l.epoch, Rule: want, Packets: 3, Bytes: 200}, got)
		}
	}
	flows := append(l.base(bypass.Base{Lease: time.Second, Guard: []bypass.AddrPair{{Local: testLease.Local, Remote: testLease.Remote}}}),
		l.inboundGate(testLease), l.outboundGate(testLease), l.tether(lesseeOf(testLease), holds(testLease)), ofctl.Flow{Table: 10, Priority: 5},
		ofctl.Flow{Table: 10, Priority: exact}) // nobody's
	for _, f := range flows {
		_, ok := l.cfg.stat(ofctl.FlowStat{Flow: f})
		require.False(t, ok, "%v is no rule", f)
	}
}

func TestConfig(t *testing.T) {
	for want, c := range map[string]Config{
		"Dial":         {Uplink: "eth0"},
		"Uplink":       {Dial: unused},
		"tables":       {Dial: unused, Uplink: "1", OutboundTable: 253},
		"InboundTable": {Dial: unused, Uplink: "1", InboundTable: 21},
		"20 to 23":     {Dial: unused, Uplink: "1", InboundTable: 22},
		"below 251":    {Dial: unused, Uplink: "1", OutboundTable: 251},
		"External":     {Dial: unused, Uplink: "1", External: &External{Dial: unused, Uplink: "eth0"}},
		"priority":     {Dial: unused, Uplink: "1", Priority: 10},
		"group IDs":    {Dial: unused, Uplink: "1", GroupBase: 0xffff_0000},
	} {
		_, err := Open(c)(t.Context())
		require.ErrorContains(t, err, want)
	}
}

func unused(context.Context) (ofctl.Switch, error) { return nil, errors.New("not to be called") }
