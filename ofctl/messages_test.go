package ofctl

import (
	"net/netip"
	"time"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// everyMessage is one of each, canonical, so that it comes back from the wire as it is.
func everyMessage() []Message {
	match6 := UDP6(InPort(1), IPv6Src(netip.MustParsePrefix("fd00::/8")), IPv6Dst(Host(netip.MustParseAddr("fd00::2"))), NotFragment(), UDPDst(80)).Canonical()
	flow6 := Flow{Match: match6, Apply: []Action{SetField{IPv6Src(Host(netip.MustParseAddr("fd00::3")))}, SetField{UDPSrc(9)}}}
	icmp6 := Flow{Match: ICMP6(ICMP6Type(2), ICMP6Code(0)).Canonical(), Apply: []Action{Normal()}, Goto: 1}
	match := TCP4(InPort(1), IPv4Src(netip.MustParsePrefix("10.0.0.0/8")), TCPDst(80)).Canonical()
	flow := Flow{Table: 1, Priority: 2, Cookie: 3, IdleTimeout: 4, HardTimeout: 5, SendFlowRemoved: true, Match: match,
		Apply: []Action{Output{Port: PortController, MaxLen: 9}, ToGroup{ID: 3}, SetField{IPv4Dst(Host(netip.MustParseAddr("1.2.3.4")))},
			PushVLAN{}, PopVLAN{}, DecTTL{}, Tether{Table: 20, Cookie: 0x7661}},
		Meter: 0x7661, Clear: true, Write: []Action{Output{Port: 7}}, Metadata: MetadataWrite{1, 3}, Goto: 9}
	group := Group{ID: 5, Type: GroupFastFailover, Buckets: []Bucket{{Weight: 1, WatchPort: 2, WatchGroup: 3, Actions: []Action{Output{Port: 4}}}, {}}}
	port := Port{No: 3, Name: "vias-h1c1", MAC: [6]byte{2, 1}, Down: true, NoLink: true}
	return append(everyAnswer(), []Message{
		EchoRequest{Data: []byte("a")}, EchoReply{Data: []byte("b")}, FeaturesRequest{},
		FeaturesReply{DatapathID: 1, Buffers: 2, Tables: 3, Capabilities: 4}, ConfigRequest{}, ConfigReply{Flags: 1, MissSendLen: 2},
		SetConfig{Flags: 1, MissSendLen: 2}, BarrierReply{}, GroupDescRequest{}, PortDescRequest{},
		FlowMod{Command: Add, Flow: flow}, FlowMod{Command: ModifyStrict, Flow: flow, CookieMask: 7},
		FlowMod{Command: Delete, Flow: Flow{Table: TableAll, Cookie: 1, Match: match}, CookieMask: 1},
		FlowMod{Flow: flow6}, FlowMod{Flow: icmp6}, FlowFilter{Match: match6},
		GroupMod{Command: Modify, Group: group}, GroupMod{Command: Delete, Group: Group{ID: 9}},
		MeterMod{Command: Modify, Meter: Meter{ID: 7, Rate: 8, Burst: 9}}, MeterMod{Command: Delete, Meter: Meter{ID: MeterAll}},
		MeterConfigRequest{}, MeterFeaturesRequest{}, MeterFeatures{MaxMeters: 1, Bands: 2, Capabilities: 3, MaxBands: 4, MaxColor: 5},
		Part[Meter]{Items: []Meter{{ID: 7, Rate: 8, Burst: 9}, {ID: 8, Rate: 1}, {ID: 9}}},
		BundleAdd{ID: 1, Flags: 3, Mod: FlowMod{Flow: flow}}, BundleAdd{ID: 1, Flags: 3, Mod: GroupMod{Group: group}},
		FlowFilter{Table: 3, Cookie: 1, CookieMask: 1, Match: match},
		Part[FlowStat]{More: true, Items: []FlowStat{{Flow: flow, Packets: 1, Bytes: 2, AgeSeconds: 3, AgeNanosecs: 4}, {}}},
		Part[Group]{Items: []Group{group, {ID: 1}}}, Part[Port]{Items: []Port{port}}, Part[Port]{},
		PacketIn{Table: 1, Cookie: 2, InPort: 3, Reason: 1, TotalLen: 99, Frame: []byte("frame")},
		PacketOut{InPort: 3, Actions: []Action{Output{Port: PortTable}}, Frame: []byte("frame")},
		FlowRemoved{Flow: Flow{Table: 1, Priority: 2, Cookie: 3, IdleTimeout: 4, HardTimeout: 5, SendFlowRemoved: true, Match: match},
			Reason: RemovedHard, Packets: 6, Bytes: 7, DurationSeconds: 8, DurationNanosecs: 9},
		PortStatus{Reason: PortDeleted, Port: port}, Unknown{Type: 30, Body: []byte{1, 2}},
		Experimenter{ID: ofp.ExperimenterNicira, Type: 1, Data: []byte{2}}, Unknown{Type: ofp.TypeExperimenter, Body: []byte{1}},
		Hello{Version: 4}, Hello{Version: 4, Bitmap: 0x10}, BarrierRequest{}, &SwitchError{Type: ErrTypeBadMatch, Code: 9, Request: []byte{}},
		&SwitchError{Type: ErrTypeExperimenter, Code: bundleMsgFailed, Experimenter: ofp.ExperimenterONF, Request: []byte{1}},
		BundleControl{ID: 1, Type: BundleCommit, Flags: bundleFlags}, TableMod{Table: TableAll, Config: 3},
		PortMod{No: 3, MAC: [6]byte{2, 1}, Config: PortDown | PortNoForward, Mask: PortDown | PortNoForward | PortNoReceive, Advertise: 1},
		RoleRequest{RoleMaster, 7}, RoleReply{RoleSlave, 8}, AsyncRequest{}, AsyncReply{Master: AllEvents(), Slave: Async{PortStatus: 7}},
		SetAsync{Master: AllEvents(), Slave: Async{PortStatus: 7}}, DescRequest{}, AggregateRequest{FlowFilter{Table: TableAll, OutPort: 3, OutGroup: 4, Match: match}},
		TableStatsRequest{}, PortStatsRequest{}, PortStatsRequest{Port: 3}, QueueStatsRequest{Queue: QueueAll}, QueueStatsRequest{Port: 1, Queue: 2},
		GroupStatsRequest{Group: GroupEvery}, GroupFeaturesRequest{}, MeterStatsRequest{}, MeterStatsRequest{ID: 4}, MeterConfigRequest{ID: 4}, TableFeaturesRequest{},
		MeterMod{Meter: Meter{ID: 8, Kilobits: true, Rate: 100, Remark: RemarkBand{Rate: 50, Burst: 5, Levels: 1}}},
		FlowMod{Command: DeleteStrict, Flow: Flow{Match: match}, OutPort: 3, OutGroup: 9}, FlowMod{Flow: Flow{NoPacketCounts: true, NoByteCounts: true}, CheckOverlap: true, ResetCounts: true},
		FlowMod{Flow: Flow{Match: Match{VLANPCP(3), VLAN(7), Masked(EthDst([6]byte{1}), 1<<40), TunnelID(77), Masked(EthSrc([6]byte{2}), 0xfffffffffffe)}.Canonical(),
			Apply: []Action{SetField{VLANPCP(5)}, SetQueue{ID: 2}, SetField{TunnelID(9)}, Output{Port: 3}}}},
		FlowMod{Flow: Flow{Match: ICMP6(ICMP6Type(135), NDTarget(netip.MustParsePrefix("fd00::/16")), NDSLL([6]byte{2}), IPv6Label(0x12345)).Canonical(), Apply: []Action{SetField{NDSLL([6]byte{4})}}}},
		FlowMod{Flow: Flow{Match: ICMP6(ICMP6Type(136), NDTLL([6]byte{2})).Canonical()}}, FlowMod{Flow: Flow{Match: SCTP6(SCTPSrc(1), SCTPDst(2)).Canonical(), Apply: []Action{SetField{SCTPDst(9)}}}},
		FlowMod{Flow: Flow{Match: ARP(ARPOp(1), ARPSHA([6]byte{2}), ARPTHA([6]byte{3}), ARPSPA(netip.MustParsePrefix("10.0.0.0/8"))).Canonical(), Apply: []Action{SetField{ARPTHA([6]byte{9})}}}},
		FlowMod{Flow: Flow{Match: ICMP4(ICMPType(8), ICMPCode(0), IPDSCP(46), IPECN(1), TTL(64), Masked(IPv4Src(netip.MustParsePrefix("10.0.0.1/32")), 0xff0000ff)).Canonical()}},
		GroupMod{Group: Group{ID: 1, Type: GroupAll, Buckets: []Bucket{{Actions: []Action{Output{Port: 1}}}, {Actions: []Action{SetField{EthDst([6]byte{2})}, Output{Port: 2}}}}}},
		GroupMod{Group: Group{ID: 2, Type: GroupSelect, Buckets: []Bucket{{Weight: 3, Actions: []Action{ToGroup{ID: 1}}}}}},
		GroupMod{Group: Group{ID: 3, Type: GroupIndirect, Buckets: []Bucket{{Actions: []Action{DecTTL{}, Output{Port: PortInPort}}}}}},
	}...)
}

// everyAnswer is one of each kind of multipart reply.
func everyAnswer() []Message {
	second := time.Second + 5
	ability := TableAbility{Instructions: []uint16{1, 4}, Next: []uint8{1, 2, 3}, WriteActions: []uint16{0, 22}, ApplyActions: []uint16{25},
		WriteFields: []OXM{0x80000604}, ApplyFields: []OXM{0x80000806, 0x80000a02}}
	return []Message{
		Desc{Manufacturer: "a", Hardware: "b", Software: "c", Serial: "d", Datapath: "e"},
		Aggregate{Packets: 1, Bytes: 2, Flows: 3},
		Part[TableStat]{Items: []TableStat{{Table: 1, Active: 2, Lookups: 3, Matched: 4}, {Table: 2}}},
		Part[PortStat]{Items: []PortStat{{Port: 1, RxPackets: 2, TxPackets: 3, RxBytes: 4, TxBytes: 5, RxDropped: 6, TxDropped: 7, RxErrors: 8,
			TxErrors: 9, RxFrameErrors: 10, RxOverruns: 11, CRCErrors: 12, Collisions: 13, Age: second}}},
		Part[QueueStat]{Items: []QueueStat{{Port: 1, Queue: 2, TxBytes: 3, TxPackets: 4, TxErrors: 5, Age: second}}},
		Part[GroupStat]{Items: []GroupStat{{Group: 1, References: 2, Packets: 3, Bytes: 4, Age: second, Buckets: []Counter{{5, 6}, {7, 8}}}, {Group: 2}}},
		GroupFeatures{Types: 0xf, Capabilities: 1, MaxGroups: [4]uint32{1, 2, 3, 4}, Actions: [4]uint32{5, 6, 7, 8}},
		Part[MeterStat]{Items: []MeterStat{{ID: 1, Flows: 2, Packets: 3, Bytes: 4, Age: second, Bands: []Counter{{5, 6}}}}},
		Part[TableFeatures]{Items: []TableFeatures{{Table: 1, Name: "classifier", MetadataMatch: 2, MetadataWrite: 3, Config: 4, MaxEntries: 5,
			Match: []OXM{0x80000604, 0x80000d0c}, Wildcards: []OXM{0x80000604}, Hit: ability, Miss: ability}, {Table: 2}}},
		Part[Meter]{Items: []Meter{{ID: 7, Rate: 8, Burst: 9}, {ID: 8, Remark: RemarkBand{Rate: 5, Burst: 1, Levels: 2}}}},
		Part[FlowStat]{}, Part[Group]{},
	}
}
