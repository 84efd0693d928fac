package ofctl_test

import (
	"fmt"
	"net/netip"

	"github.com/viasnet/vias/ofctl"
)

func ExampleFlow_String() {
	flow := ofctl.Flow{
		Table: 20, Priority: 100, IdleTimeout: 60, SendFlowRemoved: true,
		Match: ofctl.TCP4(ofctl.InPort(3), ofctl.IPv4Src(netip.MustParsePrefix("10.0.0.1/32")), ofctl.TCPDst(80)),
		Apply: []ofctl.Action{
			ofctl.SetField{Field: ofctl.IPv4Src(netip.MustParsePrefix("192.0.2.1/32"))},
			ofctl.ToGroup{ID: 1},
		},
	}
	fmt.Println(flow)
	// Output: table=20,priority=100,idle_timeout=60,send_flow_rem,tcp,in_port=3,nw_src=10.0.0.1,tp_dst=80 actions=set_field:192.0.2.1->ip_src,group:1
}

func ExampleMatch_Check() {
	fmt.Println(ofctl.Match{ofctl.TCPDst(80)}.Check())
	// Output: ofctl: match field tcp_dst needs nw_proto=0x6
}
