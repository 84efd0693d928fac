package ofctl_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/ofctl/ofctltest"
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

func ExampleParseFlow() {
	flow, err := ofctl.ParseFlow("priority=10,tcp,nw_dst=10.0.0.0/8,tcp_dst=80 actions=dec_ttl,output:3")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(flow.Priority, flow.Match, flow.Apply)
	// Output: 10 tcp,nw_dst=10.0.0.0/8,tp_dst=80 [dec_ttl output:3]
}

// A switch is kept as wanted, whatever others do and though it restarts.
func ExampleKeeper() {
	sw := ofctltest.New(ofctltest.Config{}) // or ofctl.Dialer("unix:/var/run/openvswitch/br0.mgmt", ofctl.Config{})
	defer sw.Close()
	events := make(chan ofctl.KeeperEvent, 16)
	keeper := ofctl.NewKeeper(ofctl.KeeperConfig{
		Dial:   func(context.Context) (ofctl.Switch, error) { return sw.Connect(), nil },
		Owner:  ofctl.Owner{Cookie: 0x7000, Mask: 0xf000}, // which flows are ours
		Notify: func(e ofctl.KeeperEvent) { events <- e },
	})
	flow := ofctl.Flow{Cookie: 0x7001, Priority: 5, Match: ofctl.TCP4(ofctl.TCPDst(80)), Apply: []ofctl.Action{ofctl.Normal()}}
	if err := keeper.Want(ofctl.Wanted{Flows: []ofctl.Flow{flow}}); err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- keeper.Run(ctx) }()
	e := <-events
	fmt.Println(e.Kind, e.Changed.Added)
	// Somebody else deletes everything.
	if err := sw.Apply(ctx, []ofctl.Mod{ofctl.FlowMod{Command: ofctl.Delete}}); err != nil {
		fmt.Println(err)
	}
	e = <-events
	fmt.Println(e.Kind, e.Changed.Added)
	cancel()
	<-done
	// Output:
	// connected 1
	// healed 1
}

func ExampleMatch_Check() {
	fmt.Println(ofctl.Match{ofctl.TCPDst(80)}.Check())
	// Output: ofctl: match field tcp_dst needs nw_proto=0x6
}
