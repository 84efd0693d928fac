package ofctl

import (
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(tb, err)
	return b
}

// goldens are messages as ovs-ofctl 3.1 and ovs-vswitchd 3.1 put them on the wire.
func goldens() map[string]struct {
	m     Message
	bytes string
} {
	flow := Flow{Table: 9, Priority: 0x8000, Apply: []Action{Output{Port: 1}}}
	gate := Flow{Priority: 300, HardTimeout: 30, SendFlowRemoved: true, Cookie: 0x77, Goto: 10,
		Match: TCP4(InPort(1), Untagged(), NotFragment(), PortRange(TCPDst(0xf000), 0xf000))}
	group := Group{ID: 1, Type: GroupIndirect, Buckets: []Bucket{{Actions: []Action{SetField{EthSrc([6]byte{2, 0, 0, 0, 0, 1})}, Output{Port: 1}}}}}
	return map[string]struct {
		m     Message
		bytes string
	}{
		"hello":   {Hello{Version: 4, Bitmap: 0x10}, "04000010000000010001000800000010"},
		"barrier": {BarrierRequest{}, "0414000800000001"},
		"flow-mod": {FlowMod{Flow: flow}, "040e005000000001" + "0000000000000000" + "0000000000000000" + "0900000000008000" +
			"ffffffffffffffffffffffff" + "00000000" + "0001000400000000" + "0004001800000000" + "00000010000000010000000000000000"},
		"gate": {FlowMod{Flow: gate}, "040e006800000001" + "0000000000000077" + "0000000000000000" + "00000000001e012c" +
			"ffffffffffffffffffffffff" + "00010000" + "0001002a" + "8000000400000001" + "80000c020000" + "80000a020800" + "8000140106" +
			"0001340100" + "80001d04f000f000" + "000000000000" + "000100080a000000"},
		"tether": {FlowMod{Flow: Flow{Table: 9, Priority: 0x8000, Apply: []Action{Tether{Table: 20, Cookie: 0x5eed}}}}, "040e006000000001" +
			"0000000000000000" + "0000000000000000" + "0900000000008000" + "ffffffffffffffffffffffff" + "00000000" + "0001000400000000" +
			"0004002800000000" + "ffff002000002320" + "0010000000008000" + "0000000000005eed" + "0002140000000000"},
		"group-mod": {GroupMod{Group: group}, "040f004000000001" + "0000020000000001" + "00300000ffffffffffffffff00000000" + "00190010" +
			"80000806020000000001" + "0000" + "00000010000000010000000000000000"},
		"bundle open":   {BundleControl{ID: 7, Type: BundleOpen, Flags: 3}, "0404001800000001" + "4f4e4600000008fc" + "0000000700000003"},
		"bundle commit": {BundleControl{ID: 7, Type: BundleCommit, Flags: 3}, "0404001800000001" + "4f4e4600000008fc" + "0000000700040003"},
		"flow stats":    {Owned(0x1200, 0xff00), "0412003800000001" + "0001000000000000" + "ff000000ffffffffffffffff00000000" + "0000000000001200000000000000ff00" + "0001000400000000"},
		"error":         {&SwitchError{Type: 2, Code: 9, Request: []byte{4, 14}}, "0401000e00000001" + "00020009" + "040e"},
		"bundle error":  {&SwitchError{Type: 0xffff, Code: 2313, Experimenter: ofp.ExperimenterONF, Request: []byte{}}, "0401001000000001" + "ffff0909" + "4f4e4600"},
	}
}

func TestGoldenMessages(t *testing.T) {
	for name, g := range goldens() {
		want := g.bytes
		b, err := Encode(nil, 1, g.m)
		require.NoError(t, err, name)
		require.Equal(t, want, hex.EncodeToString(b), name)
		xid, m, err := Decode(unhex(t, want))
		require.NoError(t, err, name)
		require.EqualValues(t, 1, xid, name)
		if fm, ok := m.(FlowMod); ok {
			require.Equal(t, g.m.(FlowMod).Flow.String(), fm.Flow.String(), name)
			continue
		}
		require.Equal(t, g.m, m, name)
	}
}

func TestHelloSpeaks(t *testing.T) {
	require.True(t, Hello{Version: 4}.Speaks(4))
	require.True(t, Hello{Version: 6, Bitmap: 1<<4 | 1<<6}.Speaks(4))
	require.False(t, Hello{Version: 6, Bitmap: 1 << 6}.Speaks(4))
	require.False(t, Hello{Version: 1}.Speaks(4))
	require.False(t, Hello{Bitmap: 1}.Speaks(40))
}

func TestEveryMessageRoundTrips(t *testing.T) {
	for _, m := range everyMessage() {
		b, err := Encode([]byte("prefix"), 0xfedcba98, m)
		require.NoError(t, err, "%T", m)
		xid, got, err := Decode(b[len("prefix"):])
		require.NoError(t, err, "%T", m)
		require.EqualValues(t, 0xfedcba98, xid)
		require.Equal(t, m, got, "%T", m)
	}
}

// Cut off anywhere, a message is an error or (where its items end) a shorter one,
// never a panic.
func TestCutMessages(t *testing.T) {
	for _, m := range everyMessage() {
		whole, err := Encode(nil, 1, m)
		require.NoError(t, err)
		_, _, err = Decode(whole[:len(whole)-1])
		require.Error(t, err, "%T: length beyond the bytes", m)
		for n := ofp.HeaderLen; n < len(whole); n++ {
			cut := append([]byte(nil), whole[:n]...)
			putHeader(cut, whole[1], 1)
			_, got, err := Decode(cut)
			if err == nil {
				require.NotEqual(t, m, got, "%T cut at %d", m, n)
			}
		}
	}
}

func TestEncodeNamesWhatIsMissing(t *testing.T) {
	set := func(f Field) []Action { return []Action{SetField{f}} }
	for want, m := range map[string]Message{
		"match field tcp_dst needs nw_proto=0x6":                              FlowMod{Flow: Flow{Match: IP4(TCPDst(80))}},
		"match field nw_proto needs eth_type=0x800 or eth_type=0x86dd":        FlowMod{Flow: Flow{Match: Match{IPProto(6)}}},
		"match field ip_src stands twice":                                     FlowMod{Flow: Flow{Match: IP4(IPv4Src(netip.MustParsePrefix("1.0.0.0/8")), IPv4Src(netip.MustParsePrefix("2.0.0.0/8")))}},
		"match field ip_dscp has more than 6 bits":                            FlowMod{Flow: Flow{Match: IP4(IPDSCP(64))}},
		"match field eth_type cannot be masked":                               FlowMod{Flow: Flow{Match: Match{PortRange(EthType(0x0800), 0xff00)}}},
		"match has a field without a kind":                                    FlowMod{Flow: Flow{Match: Match{{}}}},
		"action set_field:1.2.3.4->ip_src needs eth_type=0x800 in the match":  FlowMod{Flow: Flow{Apply: set(IPv4Src(netip.MustParsePrefix("1.2.3.4/32")))}},
		"set_field of ip_src must not be masked":                              FlowMod{Flow: Flow{Match: IP4(), Write: set(IPv4Src(netip.MustParsePrefix("1.0.0.0/8")))}},
		"field in_port_oxm cannot be set":                                     GroupMod{Group: Group{Buckets: []Bucket{{Actions: set(InPort(1))}}}},
		"action dec_ttl needs eth_type=0x800 or eth_type=0x86dd in the match": FlowMod{Flow: Flow{Apply: []Action{DecTTL{}}}},
		"goto_table:1 does not lead on from table 1":                          FlowMod{Flow: Flow{Table: 1, Goto: 1}},
		"match field vlan_pcp needs vlan_vid=0x1000/0x1000":                   FlowMod{Flow: Flow{Match: Match{VLANPCP(1), Untagged()}}},
		"action set_field:1->vlan_pcp needs vlan_vid=0x1000/0x1000":           FlowMod{Flow: Flow{Apply: []Action{PushVLAN{}, PopVLAN{}, SetField{VLANPCP(1)}}}},
		"match field icmpv6_type needs eth_type=0x86dd":                       FlowMod{Flow: Flow{Match: IP4(IPProto(58), ICMP6Type(1))}},
		"match field nd_sll needs icmpv6_type=0x87":                           FlowMod{Flow: Flow{Match: ICMP6(ICMP6Type(136), NDSLL([6]byte{}))}},
		"match field nd_target needs icmpv6_type=0x87 or icmpv6_type=0x88":    FlowMod{Flow: Flow{Match: ICMP6(NDTarget(netip.MustParsePrefix("fd00::/8")))}},
		"match field sctp_dst needs nw_proto=0x84":                            FlowMod{Flow: Flow{Match: UDP4(SCTPDst(1))}},
		"match field arp_sha needs eth_type=0x806":                            FlowMod{Flow: Flow{Match: IP4(ARPSHA([6]byte{}))}},
		"match field ipv6_label has more than 20 bits":                        FlowMod{Flow: Flow{Match: IP6(IPv6Label(1 << 20))}},
		"an address of the wrong family":                                      FlowMod{Flow: Flow{Match: IP4(IPv4Src(netip.MustParsePrefix("fd00::/8")))}},
		"a meter without a rate":                                              MeterMod{Meter: Meter{ID: 1}},
		"nil action":                                                          PacketOut{Actions: []Action{nil}},
		"longer than an OpenFlow message can be":                              PacketOut{Frame: make([]byte, 65536)},
		"no message":                                                          nil,
		"group-mod command delete_strict":                                     GroupMod{Command: DeleteStrict},
	} {
		b, err := Encode([]byte("x"), 1, m)
		require.ErrorContains(t, err, want)
		require.Equal(t, "x", string(b))
	}
}

// A flow of somebody else, with fields and actions that have no value here, still
// reads, and says so.
func TestPartialFlows(t *testing.T) {
	b, err := Encode(nil, 1, Part[FlowStat]{Items: []FlowStat{{Flow: Flow{Match: Match{InPort(1)}, Apply: []Action{Output{Port: 1}}}}}})
	require.NoError(t, err)
	action := append([]byte(nil), b...)
	action[len(b)-15] = 99 // the action's type
	_, m, err := Decode(action)
	require.NoError(t, err)
	require.True(t, m.(Part[FlowStat]).Items[0].Partial)
	require.Empty(t, m.(Part[FlowStat]).Items[0].Apply)
	for _, at := range []int{9, 10, 12, 15, 25, 28} { // what makes it more than a Tether: of nx_action_learn
		learn, err := Encode(nil, 1, Part[FlowStat]{Items: []FlowStat{{Flow: Flow{Apply: []Action{Tether{Table: 2}}}}}})
		require.NoError(t, err)
		learn[len(learn)-learnLen+at]++
		_, m, err = Decode(learn)
		require.NoError(t, err)
		require.True(t, m.(Part[FlowStat]).Items[0].Partial, at)
	}
	field := append([]byte(nil), b...)
	field[multipartHeaderLen+48+4] = 0x77 // the field's class
	_, m, err = Decode(field)
	require.NoError(t, err)
	require.True(t, m.(Part[FlowStat]).Items[0].Partial)
	require.Empty(t, m.(Part[FlowStat]).Items[0].Match)
}

func TestLongDumpsAreSplit(t *testing.T) {
	stats := make([]FlowStat, 2000)
	for i := range stats {
		stats[i].Priority, stats[i].Match = uint16(i), Match{InPort(uint32(i))}
	}
	b, err := Encode(nil, 5, Part[FlowStat]{Items: stats})
	require.NoError(t, err)
	var got []FlowStat
	parts := 0
	for len(b) > 0 {
		n := int(ofp.ParseHeader(b).Length)
		_, m, err := Decode(b[:n])
		require.NoError(t, err)
		part := m.(Part[FlowStat])
		got, b, parts = append(got, part.Items...), b[n:], parts+1
		require.Equal(t, len(b) > 0, part.More)
	}
	require.Greater(t, parts, 1)
	require.Equal(t, stats, got)
}

func TestSwitchErrorsHaveNames(t *testing.T) {
	for want, e := range map[string]SwitchError{
		"OFPET_FLOW_MOD_FAILED: OFPFMFC_TABLE_FULL":             {Type: ErrTypeFlowModFailed, Code: 1},
		"OFPET_BAD_MATCH: OFPBMC_BAD_PREREQ":                    {Type: ErrTypeBadMatch, Code: 9},
		"OFPET_EXPERIMENTER: OFPBFC_MSG_FAILED":                 {Type: ErrTypeExperimenter, Code: bundleMsgFailed, Experimenter: ofp.ExperimenterONF},
		"OFPET_EXPERIMENTER: code 5 of experimenter 0x00002320": {Type: ErrTypeExperimenter, Code: 5, Experimenter: ofp.ExperimenterNicira},
		"OFPET_METER_MOD_FAILED: OFPMMFC_UNKNOWN_METER":         {Type: ErrTypeMeterModFailed, Code: 3},
		"OFPET_BAD_ACTION: code 999":                            {Type: ErrTypeBadAction, Code: 999},
		"error type 77, code 1":                                 {Type: 77, Code: 1},
	} {
		require.Equal(t, "ofctl: switch refused: "+want, e.Error())
	}
}

// All types of OpenFlow 1.3.5, section 7.4.4, have as many codes as there.
func TestEveryErrorIsNamed(t *testing.T) {
	codes := []int{2, 14, 16, 10, 12, 8, 15, 5, 3, 3, 3, 3, 12, 6}
	for typ, n := range codes {
		for code := range n {
			e := &SwitchError{Type: uint16(typ), Code: uint16(code)}
			require.Regexp(t, "^ofctl: switch refused: OFPET_[A-Z_]+: OFP[A-Z]+_[A-Z_]+$", e.Error())
		}
		e := &SwitchError{Type: uint16(typ), Code: uint16(n)}
		require.Contains(t, e.Error(), "code ", "there are no more")
	}
	for code := range 16 {
		e := &SwitchError{Type: ErrTypeExperimenter, Code: uint16(bundleUnknown + code), Experimenter: ofp.ExperimenterONF}
		require.Contains(t, e.Error(), "OFPBFC_")
	}
	e := &SwitchError{Type: ErrTypeBadMatch, Code: 9, Request: []byte{1}}
	require.ErrorIs(t, e, &SwitchError{Type: ErrTypeBadMatch, Code: 9})
	require.NotErrorIs(t, e, &SwitchError{Type: ErrTypeBadMatch, Code: 8})
}

func FuzzDecode(f *testing.F) {
	for _, m := range everyMessage() {
		b, err := Encode(nil, 1, m)
		require.NoError(f, err)
		f.Add(b)
	}
	for _, g := range goldens() {
		f.Add(unhex(f, g.bytes))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= ofp.HeaderLen && len(b) <= ofp.MaxMessage {
			b[2], b[3] = byte(len(b)>>8), byte(len(b)) // most of what is interesting is behind
		}
		_, m, err := Decode(b)
		if err != nil {
			return
		}
		// What can be read and written again reads the same.
		again, err := Encode(nil, 1, m)
		if err != nil || int(ofp.ParseHeader(again).Length) != len(again) {
			return
		}
		_, m2, err := Decode(again)
		require.NoError(t, err)
		again2, err := Encode(nil, 1, m2)
		require.NoError(t, err)
		require.Equal(t, again, again2)
	})
}

func TestMatchCovers(t *testing.T) {
	wide := TCP4(IPv4Src(netip.MustParsePrefix("10.0.0.0/8")), PortRange(TCPDst(0xf000), 0xf000))
	narrow := TCP4(IPv4Src(netip.MustParsePrefix("10.1.0.0/16")), TCPDst(0xf123), InPort(3))
	require.True(t, Match(nil).Covers(wide))
	require.True(t, wide.Covers(narrow))
	require.True(t, wide.Covers(wide))
	require.False(t, narrow.Covers(wide))
	require.False(t, wide.Covers(nil))
	require.False(t, wide.Covers(TCP4(IPv4Src(netip.MustParsePrefix("10.1.0.0/16")), TCPDst(0xe123))))
	require.False(t, TCP4(TCPDst(0xf000)).Covers(TCP4(PortRange(TCPDst(0xf000), 0xf000))))
}

func TestFieldMatches(t *testing.T) {
	f := PortRange(TCPDst(0xf000), 0xf000)
	require.True(t, f.Matches([]byte{0xf1, 0x23}))
	require.False(t, f.Matches([]byte{0xe1, 0x23}))
	require.False(t, f.Matches([]byte{0xf1}))
	require.Equal(t, KindTCPDst, f.Kind())
	require.Equal(t, []byte{0xf0, 0}, f.Value())
	require.Equal(t, []byte{0xf0, 0}, f.Mask())
	require.Nil(t, Field{kind: KindTCPDst}.Mask())
	require.Zero(t, testing.AllocsPerRun(10, func() { f.Matches([]byte{0xf1, 0x23}) }))
}
