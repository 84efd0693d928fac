package vias_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/viasnet/vias"
	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
	"github.com/viasnet/vias/tap/taptest"
)

// Two nodes in one process, linked in memory: a workload of the one sends a frame to
// a workload of the other. A real node has icedtls.Open and tap.Linux instead.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	links := overlaytest.NewNet(overlaytest.Config{})
	var nodes [2]*vias.Network
	var workloads [2]tap.Device
	ended := make(chan error)
	for i := range nodes {
		identity, _ := overlay.NewIdentity()
		device, workload := taptest.Pipe(0)
		workloads[i] = workload
		nodes[i], _ = vias.New(vias.Config{
			Name:      "blue",
			Identity:  identity,
			Transport: links.Opener(),
			Device:    func(context.Context) (tap.Device, error) { return device, nil },
		})
		_ = nodes[i].Attach(ctx, vias.Endpoint{
			Name: fmt.Sprintf("web-%d", i),
			MAC:  tap.MAC{2, 0, 0, 0, 0, byte(i)},
			IPs:  []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})},
		})
	}
	events := nodes[0].Events(ctx)
	_ = nodes[0].AddPeer(nodes[1].ID())
	_ = nodes[1].AddPeer(nodes[0].ID())
	for _, n := range nodes {
		go func() { ended <- n.Run(ctx) }()
	}
	for e := range events {
		if up, ok := e.(vias.EndpointUp); ok {
			fmt.Println("there is", up.Name, "at", up.MAC)
			break
		}
	}

	b := tap.NewBatch(1, 1514)
	b.Append([]byte("\x02\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x01\x88\xb5hello"), tap.Offload{})
	_ = workloads[1].WriteBatch(b)
	_ = workloads[0].ReadBatch(b)
	fmt.Printf("%s\n", b.Frame(0)[tap.HeaderLen:])

	why := nodes[0].Explain(bypass.Flow{
		Proto: bypass.TCP,
		Src:   netip.MustParseAddrPort("10.0.0.1:5000"),
		Dst:   netip.MustParseAddrPort("10.0.0.2:80"),
	})
	fmt.Println(why.State, "because", why.What, "-", why.Remedy)
	cancel()
	fmt.Println(<-ended, <-ended)
	// Output:
	// there is web-1 at 02:00:00:00:00:01
	// hello
	// overlay because this network has no bypass host - give Config.Bypass a Host
	// <nil> <nil>
}
