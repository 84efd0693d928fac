package bypasstest

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/tap"
)

// packetIn asserts that the next event is p, from the wire, as a PacketIn.
func (e *env) packetIn(kind bypass.PacketKind, p Packet, atLeast int) {
	e.t.Helper()
	e.b.Send(Uplink, p.Frame())
	in, ok := e.event().(bypass.PacketIn)
	require.True(e.t, ok)
	require.Equal(e.t, kind, in.Kind)
	require.GreaterOrEqual(e.t, len(in.Frame), atLeast)
	require.Equal(e.t, p.Frame()[:atLeast], in.Frame[:atLeast])
}

// listen is a rule for probes from the peer, from any of its ports.
func (e *env) listen() bypass.Rule {
	return bypass.Rule{
		ID: 7, Direction: bypass.Listen, Flow: bypass.Flow{Proto: e.proto}, Hard: 20 * time.Second,
		Local: netip.AddrPortFrom(e.underLocal, 0xfabc), Remote: netip.AddrPortFrom(e.underRemote, 0),
	}
}

// probe is a full-size packet for listen.
func (e *env) probe() Packet {
	p := e.arriving()
	p.Flow = bypass.Flow{Proto: e.proto, Src: netip.AddrPortFrom(e.underRemote, 0xf00d), Dst: e.listen().Local}
	p.TTL, p.Payload = 255, make([]byte, 1440)
	for i := range p.Payload {
		p.Payload[i] = byte(i * 7)
	}
	return p
}

func controllerCases() []datapathCase {
	return []datapathCase{
		{"an orphan is reported, and never reaches the host", func(e *env) {
			e.apply(bypass.Change{Leases: []bypass.Lease{e.lease(long, long)}})
			e.packetIn(bypass.PacketOrphan, e.arriving(), headers(e.arriving()))
		}},
		{"the guard keeps packets from the host", func(e *env) {
			e.set(e.guarded())
			e.packetIn(bypass.PacketGuard, e.arriving(), headers(e.arriving()))
			p := e.arriving()
			p.Flow.Proto = e.other
			e.packetIn(bypass.PacketGuard, p, headers(p))
		}},
		{"what is for the host comes to the host", caseHost},
		{"a whole probe comes to whoever listens", func(e *env) {
			e.set(e.guarded())
			e.apply(bypass.Change{Leases: []bypass.Lease{e.lease(long, long)}, Add: []bypass.Rule{e.listen()}})
			e.packetIn(bypass.PacketProbe, e.probe(), len(e.probe().Frame()))
			other := e.probe()
			other.Flow.Src = netip.AddrPortFrom(e.underRemote, 0xf00e)
			e.packetIn(bypass.PacketProbe, other, len(other.Frame()))
		}},
		{"a listen rule may name the port", func(e *env) {
			e.set(e.guarded())
			r := e.listen()
			r.Remote = e.probe().Flow.Src
			e.apply(bypass.Change{Add: []bypass.Rule{r}})
			e.packetIn(bypass.PacketProbe, e.probe(), len(e.probe().Frame()))
			other := e.probe()
			other.Flow.Src = netip.AddrPortFrom(e.underRemote, 0xf00e)
			e.packetIn(bypass.PacketGuard, other, headers(other))
		}},
		{"a listen rule ends by itself", func(e *env) {
			e.set(e.guarded())
			r := e.listen()
			r.Hard = time.Second
			e.apply(bypass.Change{Add: []bypass.Rule{r}})
			e.pass(3 * time.Second)
			e.packetIn(bypass.PacketGuard, e.probe(), headers(e.probe()))
			require.Empty(e.t, e.rules())
		}},
		{"what is injected for a workload takes its rules", func(e *env) {
			e.bypassed(e.lease(long, long))
			require.NoError(e.t, e.dp.Inject(e.t.Context(), e.b.Ofport(WorkloadA), e.sent().Frame()))
			got, ok := Parse(e.b.Recv(Uplink, patience))
			require.True(e.t, ok)
			require.Equal(e.t, e.onWire().Flow, got.Flow)
			e.apply(bypass.Change{Remove: []bypass.Rule{e.out()}})
			require.NoError(e.t, e.dp.Inject(e.t.Context(), e.b.Ofport(WorkloadA), e.sent().Frame()))
			require.NotNil(e.t, e.b.Recv(Plain, patience))
		}},
		{"what is injected for the wire leaves as it is", func(e *env) {
			frame := e.onWire().Frame()
			require.NoError(e.t, e.dp.Inject(e.t.Context(), 0, frame))
			require.Equal(e.t, frame, e.b.Recv(Uplink, patience))
		}},
		{"what is delivered reaches the workload as it is", func(e *env) {
			e.bypassed(e.lease(long, long))
			for _, frame := range [][]byte{e.arriving().Frame(), e.delivered().Frame(), e.icmpError(e.errorType()).Frame()} {
				require.NoError(e.t, e.dp.Deliver(e.t.Context(), e.b.Ofport(WorkloadA), frame))
				require.Equal(e.t, frame, e.b.Recv(WorkloadA, patience))
			}
			e.none(WorkloadB, "another workload has it")
			e.none(Uplink, "it has left by the uplink")
		}},
	}
}

// otherCases have nothing to do with what kind of traffic there is.
func otherCases() []datapathCase {
	return []datapathCase{
		{"a closed datapath says so", func(e *env) {
			dp, _ := e.open()
			require.NoError(e.t, dp.Close())
			require.NoError(e.t, dp.Close())
			ctx := context.Background()
			require.ErrorIs(e.t, dp.Set(ctx, e.base()), net.ErrClosed)
			require.ErrorIs(e.t, dp.Apply(ctx, bypass.Change{}), net.ErrClosed)
			require.ErrorIs(e.t, dp.Inject(ctx, 0, e.sent().Frame()), net.ErrClosed)
			require.ErrorIs(e.t, dp.Deliver(ctx, 3, e.sent().Frame()), net.ErrClosed)
			require.ErrorIs(e.t, dp.Watch(ctx, func(bypass.Event) {}), net.ErrClosed)
			_, err := dp.Rules(ctx)
			require.ErrorIs(e.t, err, net.ErrClosed)
		}},
		{"what is not ours is left alone", func(e *env) {
			dump := e.b.Foreign()
			before := dump()
			e.set(e.guarded())
			e.bypassed(e.lease(long, long))
			e.set(e.base())
			e.apply(bypass.Change{
				Leases: []bypass.Lease{e.lease(0, 0)}, Remove: []bypass.Rule{e.out(), e.in()},
			})
			require.Equal(e.t, before, dump())
		}},
		{"a done context changes nothing", func(e *env) {
			ctx, cancel := context.WithCancel(e.t.Context())
			cancel()
			err := e.dp.Apply(ctx, bypass.Change{Add: []bypass.Rule{e.out()}})
			require.ErrorIs(e.t, err, context.Canceled)
			require.ErrorIs(e.t, e.dp.Set(ctx, e.base()), context.Canceled)
			require.Empty(e.t, e.rules())
		}},
		{"families are not mixed", caseMixed},
	}
}

// caseHost: a peer's other packets, and those of strangers, are the host's own business.
func caseHost(e *env) {
	e.set(e.guarded())
	e.bypassed(e.lease(long, long))
	for _, p := range []Packet{
		between(e.arriving(), 40000, 22), between(e.arriving(), 0xf456, 0xefff),
		with(e.arriving(), func(p *Packet) {
			p.Flow.Src = netip.AddrPortFrom(e.underRemote.Next(), p.Flow.Src.Port())
		}),
	} {
		for _, proto := range []bypass.Proto{bypass.TCP, bypass.UDP} {
			p.Flow.Proto = proto
			e.b.Send(Uplink, p.Frame())
			require.NotNil(e.t, e.b.Recv(Stack, patience), "%v", p.Flow)
		}
	}
	e.noEvent()
}

func baseCases() []datapathCase {
	return []datapathCase{
		{"Set is idempotent and keeps rules and leases", func(e *env) {
			e.set(e.guarded())
			e.bypassed(e.lease(long, long))
			e.set(e.guarded())
			e.set(e.guarded())
			e.expect(WorkloadA, e.sent(), Uplink, e.onWire())
			e.expect(Uplink, e.arriving(), WorkloadA, e.delivered())
			require.Len(e.t, e.rules(), 2)
			e.noEvent()
		}},
		{"a next hop may change under its rules", func(e *env) {
			e.bypassed(e.lease(long, long))
			e.hop.Src, e.hop.Dst = tap.MAC{2, 1, 1, 1, 1, 1}, tap.MAC{2, 1, 1, 1, 1, 2}
			e.set(e.base())
			e.expect(WorkloadA, e.sent(), Uplink, e.onWire())
			e.noEvent()
		}},
		{"a next hop that goes takes its rules along", func(e *env) {
			e.bypassed(e.lease(long, long))
			b := e.base()
			b.Hops = []bypass.Hop{{ID: 2, Src: uplinkMAC, Dst: routerMAC}}
			e.set(b)
			require.Equal(e.t, bypass.RuleLost{ID: 1, Direction: bypass.Outbound}, e.event())
			e.plain(WorkloadA, e.sent())
		}},
		{"a workload that goes is bypassed no more", func(e *env) {
			e.bypassed(e.lease(long, long))
			b := e.base()
			b.Workloads = b.Workloads[1:]
			e.set(b)
			e.plain(WorkloadA, e.sent())
			require.Len(e.t, e.rules(), 2)
			e.set(e.base())
			e.expect(WorkloadA, e.sent(), Uplink, e.onWire())
		}},
		{"what Set made ends by itself", func(e *env) {
			b := e.guarded()
			b.Lease = short
			e.set(b)
			e.packetIn(bypass.PacketGuard, e.arriving(), headers(e.arriving()))
			e.bypassed(e.lease(long, long))
			e.pass(short + 2*time.Second)
			e.plain(WorkloadA, e.sent())
			e.apply(bypass.Change{Leases: []bypass.Lease{e.lease(0, 0)}})
			e.b.Send(Uplink, e.arriving().Frame())
			require.NotNil(e.t, e.b.Recv(Stack, patience), "the guard is still there")
		}},
		{"Set again keeps it", func(e *env) {
			b := e.guarded()
			b.Lease = 20 * time.Second
			e.set(b)
			e.bypassed(e.lease(long, long))
			e.pass(11 * time.Second)
			e.set(b)
			e.pass(11 * time.Second)
			e.expect(WorkloadA, e.sent(), Uplink, e.onWire())
		}},
	}
}
