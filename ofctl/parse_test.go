package ofctl_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/ofctl"
)

func TestParseFlowReadsWhatStringPrints(t *testing.T) {
	for _, row := range flowTexts() {
		f, err := ofctl.ParseFlow(row.text)
		require.NoError(t, err, row.name)
		require.Equal(t, row.text, f.String(), row.name)
		require.True(t, row.flow.Match.Equal(f.Match), row.name)
	}
}

func TestParseGroupReadsWhatStringPrints(t *testing.T) {
	for _, text := range []string{
		"group_id=4,type=all", "group_id=2,type=select,bucket=weight:5,actions=drop,bucket=weight:1,actions=output:1,dec_ttl",
		"group_id=3,type=ff,bucket=watch_port:1,watch_group:7,actions=output:1",
		"group_id=1,type=indirect,bucket=actions=set_field:02:00:00:00:00:0a->eth_src,LOCAL",
	} {
		g, err := ofctl.ParseGroup(text)
		require.NoError(t, err)
		require.Equal(t, text, g.String())
	}
}

func TestParseOtherForms(t *testing.T) {
	for text, want := range map[string]string{
		" cookie=0x7, duration=1.5s, table=3, n_packets=9, n_bytes=99, idle_age=3, priority=5,tcp,tp_dst=80 actions=drop": "cookie=0x7,table=3,priority=5,tcp,tp_dst=80 actions=drop",
		"actions=NORMAL":                     "table=0,priority=32768 actions=NORMAL",
		"priority=1,actions=2,controller":    "table=0,priority=1 actions=output:2,CONTROLLER:65535",
		"priority=1,dl_vlan=0xffff actions=": "table=0,priority=1,vlan_tci=0x0000/0x1fff actions=drop",
		"priority=1,ip,ip_src=10.0.0.0/255.0.0.0,nw_frag=not_later actions=strip_vlan,local": "table=0,priority=1,ip,nw_src=10.0.0.0/8,nw_frag=not_later actions=pop_vlan,LOCAL",
		"priority=1,tcp6,tcp_src=0x50,nw_frag=yes actions=IN_PORT":                           "table=0,priority=1,tcp6,nw_frag=yes,tp_src=80 actions=IN_PORT",
		"priority=1,icmp6,icmp_type=1 actions=drop":                                          "table=0,priority=1,icmp6,icmp_type=1 actions=drop",
	} {
		f, err := ofctl.ParseFlow(text)
		require.NoError(t, err, text)
		require.Equal(t, want, f.String())
	}
}

func TestParseNamesWhatItCannotRead(t *testing.T) {
	for text, want := range map[string]string{
		"table=0": "actions= is missing", "interactions=drop": "actions= is missing",
		"table=256,actions=drop": "table=256: not a number that fits", "reg0=1,actions=drop": "reg0=1: unknown word",
		"tcp,tp_dst=70000,actions=drop": "tp_dst=70000", "dl_src=02:00,actions=drop": "no MAC", "ip,nw_src=::1,actions=drop": "no such address",
		"actions=resubmit(,20),drop": "resubmit(,20): unknown word", "actions=set_field:1->reg0": "unknown word",
		"actions=learn(table=3)": "learn(table=3): unknown word", "nw_tos=3,actions=drop": "nw_tos=3", "vlan_tci=0xffff,actions=drop": "vlan_tci",
		"actions=push_vlan:0x88a8": "push_vlan", "dl_vlan=5000,actions=drop": "dl_vlan=5000",
	} {
		_, err := ofctl.ParseFlow(text)
		require.ErrorContains(t, err, want, text)
	}
	_, err := ofctl.ParseGroup("group_id=1,type=some")
	require.ErrorContains(t, err, "type=some")
	_, err = ofctl.ParseGroup("group_id=1,bucket=weight:99999,actions=drop")
	require.ErrorContains(t, err, "weight:99999")
	_, err = ofctl.ParseActions("drop,fly")
	require.ErrorContains(t, err, "drop: unknown word")
	m, err := ofctl.ParseMatch("udp,udp_dst=53")
	require.NoError(t, err)
	require.Equal(t, ofctl.UDP4(ofctl.UDPDst(53)), m)
}

// What can be read prints as something that reads the same.
func FuzzParseFlow(f *testing.F) {
	for _, row := range flowTexts() {
		f.Add(row.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		flow, err := ofctl.ParseFlow(text)
		if err != nil || flow.Match.Check() != nil {
			return
		}
		again, err := ofctl.ParseFlow(flow.String())
		require.NoError(t, err)
		require.Equal(t, flow.String(), again.String())
	})
}

func FuzzParseGroup(f *testing.F) {
	f.Add("group_id=2,type=select,bucket=weight:5,actions=drop,bucket=watch_port:LOCAL,actions=output:1,dec_ttl")
	f.Fuzz(func(t *testing.T, text string) {
		g, err := ofctl.ParseGroup(text)
		if err != nil {
			return
		}
		again, err := ofctl.ParseGroup(g.String())
		require.NoError(t, err)
		require.Equal(t, g.String(), again.String())
	})
}
