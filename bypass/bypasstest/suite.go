package bypasstest

import (
	"bytes"
	"context"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/tap"
)

// End is where frames enter and leave a switch under test.
type End uint8

// Ends of a Bench.
const (
	Uplink    End = iota // the provider's network
	WorkloadA            // two ports of workloads
	WorkloadB
	Plain // where frames of workloads go that are not bypassed: the overlay's TAP
	Stack // the host's own stack
)

// Bench is one fresh switch under test with the ends of its wires. It belongs to
// one case, which calls it from one goroutine.
type Bench interface {
	// Open makes a Datapath on the switch, as bypass.HostConfig.Datapath would. The
	// case closes it. Opening another one is what a restarted host does.
	Open(ctx context.Context) (bypass.Datapath, error)
	// Ofport is the port number of WorkloadA or WorkloadB.
	Ofport(e End) uint32
	// Send puts a frame into the switch.
	Send(e End, frame []byte)
	// Recv is the next TCP or UDP frame that left the switch, or nil after timeout.
	Recv(e End, timeout time.Duration) []byte
	// Settle returns when the switch forwards as its tables say and its counters
	// count what it forwarded.
	Settle()
	// Foreign makes somebody else put something of his own into the switch, and
	// returns a function that says all that he has there.
	Foreign() func() string
	// Delete makes somebody else delete a peer's rules of one direction.
	Delete(epoch uint16, dir bypass.Direction, peer uint32)
}

// DatapathHarness makes Benches.
type DatapathHarness struct {
	New func(t *testing.T) Bench
	// Virtual runs every case in a testing/synctest bubble: for switches in memory,
	// whose time-outs then take no time. Others' cases run in parallel.
	Virtual bool
}

// RunDatapath runs every case of the conformance suite against a fresh Bench each.
func RunDatapath(t *testing.T, h DatapathHarness) {
	t.Helper()
	for _, c := range slices.Concat(leaseCases(), tetherCases(), ruleCases(), matchCases(), controllerCases(), baseCases()) {
		t.Run(c.name, func(t *testing.T) {
			if h.Virtual {
				synctest.Test(t, func(t *testing.T) { runCase(t, h, c) })
				return
			}
			t.Parallel()
			runCase(t, h, c)
		})
	}
}

type datapathCase struct {
	name string
	run  func(*env)
}

func runCase(t *testing.T, h DatapathHarness, c datapathCase) {
	e := &env{t: t, b: h.New(t), hop: bypass.Hop{ID: 1, Src: uplinkMAC, Dst: routerMAC}}
	if h.Virtual {
		e.quiet = 10 * time.Millisecond
	} else {
		e.quiet = 150 * time.Millisecond
	}
	e.dp, e.events = e.open()
	e.set(e.base())
	c.run(e)
	e.none(Stack, "a frame has reached the host's stack")
}

// Addresses of the suite's little world: two local workloads, two peers behind one
// next hop.
var (
	workloadMAC = [...]tap.MAC{{2, 0xa, 0, 0, 0, 1}, {2, 0xa, 0, 0, 0, 2}}
	peerMAC     = tap.MAC{2, 0xb, 0, 0, 0, 1}
	uplinkMAC   = tap.MAC{2, 0xc, 0, 0, 0, 1}
	routerMAC   = tap.MAC{2, 0xc, 0, 0, 0, 2}
	workloadIP  = [...]netip.Addr{netip.AddrFrom4([4]byte{192, 168, 7, 1}), netip.AddrFrom4([4]byte{192, 168, 7, 2})}
	peerIP      = netip.AddrFrom4([4]byte{192, 168, 7, 9})
	underLocal  = netip.AddrFrom4([4]byte{10, 1, 0, 1})
	underRemote = netip.AddrFrom4([4]byte{10, 1, 0, 2})
	underOther  = netip.AddrFrom4([4]byte{10, 1, 0, 3})
)

const (
	patience = 15 * time.Second // for what will happen
	epoch    = 77
	peer     = 5
)

// env is what a case works with.
type env struct {
	t      *testing.T
	b      Bench
	dp     bypass.Datapath
	events chan bypass.Event
	quiet  time.Duration // how long to wait for what must not happen
	hop    bypass.Hop
}

// open opens a datapath and waits until it is up.
func (e *env) open() (bypass.Datapath, chan bypass.Event) {
	e.t.Helper()
	dp, err := e.b.Open(e.t.Context())
	require.NoError(e.t, err)
	events := make(chan bypass.Event, 1024)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- dp.Watch(ctx, func(ev bypass.Event) { events <- ev }) }()
	e.t.Cleanup(func() {
		cancel()
		<-done
		require.NoError(e.t, dp.Close())
	})
	select {
	case ev := <-events:
		require.Equal(e.t, bypass.DatapathUp{Fresh: true}, ev, "the first event")
	case <-time.After(patience):
		require.FailNow(e.t, "the datapath does not come up")
	}
	return dp, events
}

// base is both workloads, one hop, and no guard.
func (e *env) base() bypass.Base {
	b := bypass.Base{Epoch: epoch, Lease: time.Minute, Hops: []bypass.Hop{e.hop}}
	for i, end := range []End{WorkloadA, WorkloadB} {
		b.Workloads = append(b.Workloads, bypass.Workload{
			Ofport: e.b.Ofport(end), MAC: workloadMAC[i], IPs: []netip.Addr{workloadIP[i]},
		})
	}
	return b
}

// guarded is base with a guard towards the peer.
func (e *env) guarded() bypass.Base {
	b := e.base()
	b.Guard = []bypass.AddrPair{{Local: underLocal, Remote: underRemote}}
	return b
}

func (e *env) set(b bypass.Base) {
	e.t.Helper()
	require.NoError(e.t, e.dp.Set(e.t.Context(), b))
	e.b.Settle()
}

func (e *env) apply(c bypass.Change) {
	e.t.Helper()
	require.NoError(e.t, e.dp.Apply(e.t.Context(), c))
	e.b.Settle()
}

// flow is a TCP flow of WorkloadA's to the peer's workload.
func flow() bypass.Flow {
	return bypass.Flow{
		Proto: bypass.TCP,
		Src:   netip.AddrPortFrom(workloadIP[0], 40000), Dst: netip.AddrPortFrom(peerIP, 80),
	}
}

// pair is the underlay's view of flow.
func pair() (local, remote netip.AddrPort) {
	return netip.AddrPortFrom(underLocal, 0xf123), netip.AddrPortFrom(underRemote, 0xf456)
}

// out and in are the two rules of flow.
func (e *env) out() bypass.Rule {
	r := e.in()
	r.ID, r.Direction, r.Hop = 1, bypass.Outbound, 1
	return r
}

func (e *env) in() bypass.Rule {
	local, remote := pair()
	return bypass.Rule{
		ID: 2, Direction: bypass.Inbound, Flow: flow(), Local: local, Remote: remote,
		LocalMAC: workloadMAC[0], RemoteMAC: peerMAC, Ofport: e.b.Ofport(WorkloadA), Peer: peer,
	}
}

// lease is one of both halves for the peer.
func lease(out, in time.Duration) bypass.Lease {
	return bypass.Lease{
		Peer: peer, Proto: bypass.TCP, Local: underLocal, Remote: underRemote, Outbound: out, Inbound: in,
	}
}

// bypassed installs both rules of flow and a lease.
func (e *env) bypassed(l bypass.Lease) {
	e.t.Helper()
	e.apply(bypass.Change{Leases: []bypass.Lease{l}, Add: []bypass.Rule{e.out(), e.in()}})
}

// sent is what WorkloadA sends in flow.
func sent() Packet {
	return Packet{
		SrcMAC: workloadMAC[0], DstMAC: peerMAC, Flow: flow(), Seq: 0xfffffff0, Ack: 7,
		Flags: FlagPSH | FlagACK, Payload: []byte("an odd payload of some bytes!"),
	}
}

// arriving is what the peer sends in flow, as it stands on the wire.
func arriving() Packet {
	local, remote := pair()
	return Packet{
		SrcMAC: routerMAC, DstMAC: uplinkMAC, Flow: bypass.Flow{Proto: bypass.TCP, Src: remote, Dst: local},
		TTL: 61, Seq: 12, Ack: 0xfffffff1, Flags: FlagACK, Payload: []byte("an answer"),
	}
}

// rewritten is p with other addresses.
func rewritten(p Packet, src, dst tap.MAC, f bypass.Flow) Packet {
	p.SrcMAC, p.DstMAC, p.Flow = src, dst, f
	return p
}

// onWire is what becomes of sent.
func (e *env) onWire() Packet {
	local, remote := pair()
	return rewritten(sent(), e.hop.Src, e.hop.Dst, bypass.Flow{Proto: bypass.TCP, Src: local, Dst: remote})
}

// delivered is what becomes of arriving.
func delivered() Packet {
	return rewritten(arriving(), peerMAC, workloadMAC[0], flow().Reverse())
}

// expect asserts that p, put in at from, leaves at to as want, and nowhere else.
func (e *env) expect(from End, p Packet, to End, want Packet) {
	e.t.Helper()
	e.b.Send(from, p.Frame())
	got := e.b.Recv(to, patience)
	require.NotNil(e.t, got, "nothing arrived")
	require.NoError(e.t, CheckSums(got))
	wantFrame := want.Frame()
	require.GreaterOrEqual(e.t, len(got), len(wantFrame))
	require.True(e.t, bytes.Equal(wantFrame, got[:len(wantFrame)]), "\nwant %x\ngot  %x", wantFrame, got)
}

// plain asserts that p, sent by a workload, leaves unchanged on the overlay's side.
func (e *env) plain(from End, p Packet) {
	e.t.Helper()
	e.expect(from, p, Plain, p)
	if got := e.b.Recv(Uplink, e.quiet); got != nil {
		require.FailNow(e.t, "a copy has left by the uplink", "%x", got)
	}
}

// swallowed asserts that p, from the wire, reaches no workload.
func (e *env) swallowed(p Packet) {
	e.t.Helper()
	e.b.Send(Uplink, p.Frame())
	e.none(WorkloadA, "it has reached a workload")
}

// none asserts that nothing leaves at an end.
func (e *env) none(end End, why string) {
	e.t.Helper()
	if got := e.b.Recv(end, e.quiet); got != nil {
		require.FailNow(e.t, why, "%x", got)
	}
}

// event is the next event but those about ports.
func (e *env) event() bypass.Event {
	e.t.Helper()
	limit := time.After(patience)
	for {
		select {
		case ev := <-e.events:
			if _, ports := ev.(bypass.PortsChanged); !ports {
				return ev
			}
		case <-limit:
			require.FailNow(e.t, "no event")
		}
	}
}

// noEvent asserts that nothing is reported, of what matters to a case.
func (e *env) noEvent() {
	e.t.Helper()
	limit := time.After(e.quiet)
	for {
		select {
		case ev := <-e.events:
			if _, ports := ev.(bypass.PortsChanged); !ports {
				require.FailNow(e.t, "an event", "%+v", ev)
			}
		case <-limit:
			return
		}
	}
}

// pass lets time pass.
func (e *env) pass(d time.Duration) {
	<-time.After(d)
	e.b.Settle()
}

// rules is the switch's rules by epoch, direction and ID.
func (e *env) rules() []bypass.RuleStat {
	e.t.Helper()
	list, err := e.dp.Rules(e.t.Context())
	require.NoError(e.t, err)
	sortStats(list)
	return list
}
