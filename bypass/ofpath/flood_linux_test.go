package ofpath_test

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/internal/ovstest"
	"github.com/viasnet/vias/tap"
)

// TestIntegrationFlood: of 50,000 packets that no rule takes few come up from a real
// switch, whatever their ports, while probes all do.
func TestIntegrationFlood(t *testing.T) {
	b := newOVSBench(t, ovstest.Start(t), 0)
	b.normal()
	dp, err := b.Open(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, dp.Close()) }()
	waitUp(t, dp)
	require.NoError(t, dp.Set(t.Context(), base()))
	c := change(0x123)
	c.Leases = []bypass.Lease{renewal()}
	listen := netip.AddrPortFrom(localA.Addr(), 0xff00)
	c.Add = append(c.Add, bypass.Rule{ID: 9, Direction: bypass.Listen, Flow: bypass.Flow{Proto: bypass.UDP},
		Local: listen, Remote: netip.AddrPortFrom(netip.IPv4Unspecified(), 0), Hard: 30 * time.Second})
	require.NoError(t, dp.Apply(t.Context(), c))

	var came [3]atomic.Int64 // by PacketKind
	watching, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- dp.Watch(watching, func(e bypass.Event) {
			if p, ok := e.(bypass.PacketIn); ok {
				came[p.Kind].Add(1)
			}
		})
	}()
	defer func() { stop(); require.NoError(t, <-done) }()

	packet := func(proto bypass.Proto, from, to uint16) []byte {
		return bypasstest.Packet{SrcMAC: tap.MAC{2, 0xc, 0, 0, 0, 2}, DstMAC: tap.MAC{2, 0xc, 0, 0, 0, 1}, TTL: 255,
			Flow: bypass.Flow{Proto: proto, Src: netip.AddrPortFrom(remoteB.Addr(), from), Dst: netip.AddrPortFrom(localA.Addr(), to)}}.Frame()
	}
	// Behind the live TCP gate they are orphans, over UDP the guard takes them.
	const flood, probes = 50_000, 100
	start := time.Now()
	for n := range flood {
		b.Send(bypasstest.Uplink, packet([]bypass.Proto{bypass.TCP, bypass.UDP}[n%2], uint16(1000+n%50), 0xf001))
		if n%(flood/probes) == 0 {
			b.Send(bypasstest.Uplink, packet(bypass.UDP, 7, listen.Port()))
		}
		if n%100 == 0 { // 100,000 a second at most: what the switch's own queue drops shows nothing
			<-time.After(time.Millisecond)
		}
	}
	await := func(what string, ok func() bool) {
		for end := time.After(10 * time.Second); !ok(); {
			select {
			case <-end:
				require.FailNow(t, what, "orphans %d, guarded %d, probes %d", came[bypass.PacketOrphan].Load(), came[bypass.PacketGuard].Load(), came[bypass.PacketProbe].Load())
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	await("no probe came through", func() bool { return came[bypass.PacketProbe].Load() >= probes/2 })
	took := time.Since(start)
	odd := came[bypass.PacketOrphan].Load() + came[bypass.PacketGuard].Load()
	t.Logf("%d packets in %v: %d orphans and %d guarded came up, %d probes", flood, took,
		came[bypass.PacketOrphan].Load(), came[bypass.PacketGuard].Load(), came[bypass.PacketProbe].Load())
	require.Positive(t, odd)
	require.LessOrEqual(t, odd, int64(2*100+100*(took.Seconds()+1)), "100 at once, and 100 a second")
	// And afterwards what comes up is looked at again.
	await("orphans are not looked at any more", func() bool {
		b.Send(bypasstest.Uplink, packet(bypass.TCP, 999, 0xf001))
		return came[bypass.PacketOrphan].Load()+came[bypass.PacketGuard].Load() > odd
	})
}
