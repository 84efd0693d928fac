package bypasstest_test

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/tap"
)

// Two switches on one wire; the first one's rule rewrites what its workload sends,
// the second one's rewrites it back.
func Example() {
	macA, macB := tap.MAC{2, 0, 0, 0, 0, 0xa}, tap.MAC{2, 0, 0, 0, 0, 0xb}
	upA, upB := tap.MAC{2, 0, 0, 0, 1, 0xa}, tap.MAC{2, 0, 0, 0, 1, 0xb}
	flow := bypass.Flow{
		Proto: bypass.TCP,
		Src:   netip.MustParseAddrPort("192.168.7.1:40000"),
		Dst:   netip.MustParseAddrPort("192.168.7.2:80"),
	}
	underA, underB := netip.MustParseAddrPort("10.0.0.1:61441"), netip.MustParseAddrPort("10.0.0.2:61442")

	wire := bypasstest.NewWire()
	wire.Tap(func(frame []byte) {
		p, _ := bypasstest.Parse(frame)
		fmt.Println("wire:    ", p.Flow)
	})
	a := wire.NewSwitch(bypasstest.SwitchConfig{UplinkMAC: upA})
	b := wire.NewSwitch(bypasstest.SwitchConfig{UplinkMAC: upB})
	a.Tap(func([]byte) { fmt.Println("overlay") })
	b.AddPort(4, macB, func(frame []byte) {
		p, _ := bypasstest.Parse(frame)
		fmt.Println("workload:", p.Flow, bypasstest.CheckSums(frame))
	})

	ctx := context.Background()
	dpA, _ := a.Open(ctx)
	dpB, _ := b.Open(ctx)
	_ = dpA.Set(ctx, bypass.Base{
		Epoch: 1, Lease: 30 * time.Second,
		Workloads: []bypass.Workload{{Ofport: 3, MAC: macA, IPs: []netip.Addr{flow.Src.Addr()}}},
		Hops:      []bypass.Hop{{ID: 1, Src: upA, Dst: upB}},
	})
	_ = dpB.Set(ctx, bypass.Base{Epoch: 1, Lease: 30 * time.Second})

	syn := bypasstest.Packet{SrcMAC: macA, DstMAC: macB, Flow: flow, Flags: bypasstest.FlagSYN}.Frame()
	a.Send(3, syn)
	_ = dpB.Apply(ctx, bypass.Change{
		Leases: []bypass.Lease{{
			Peer: 1, Proto: bypass.TCP, Local: underB.Addr(), Remote: underA.Addr(), Inbound: 30 * time.Second,
		}},
		Add: []bypass.Rule{{
			ID: 1, Direction: bypass.Inbound, Flow: flow.Reverse(), Local: underB, Remote: underA,
			LocalMAC: macB, RemoteMAC: macA, Ofport: 4, Peer: 1,
		}},
	})
	_ = dpA.Apply(ctx, bypass.Change{
		Leases: []bypass.Lease{{
			Peer: 1, Proto: bypass.TCP, Local: underA.Addr(), Remote: underB.Addr(), Outbound: 25 * time.Second,
		}},
		Add: []bypass.Rule{{
			ID: 1, Direction: bypass.Outbound, Flow: flow, Local: underA, Remote: underB,
			LocalMAC: macA, RemoteMAC: macB, Ofport: 3, Hop: 1, Peer: 1,
		}},
	})
	a.Send(3, syn)
	// Output:
	// overlay
	// wire:     tcp 10.0.0.1:61441 > 10.0.0.2:61442
	// workload: tcp 192.168.7.1:40000 > 192.168.7.2:80 <nil>
}
