package bypasstest

import (
	"bytes"
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
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
	// Recv is the next frame for which Sought is true that left the switch, or nil after
	// timeout.
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
	// whose time-outs then take no time.
	Virtual bool
	// AtOnce is how many cases run side by side, whatever -parallel says: those of others
	// spend their time waiting. 0 = 1.
	AtOnce int
	// Brief runs those cases that are about time and bookkeeping with TCP over IPv4 only:
	// for switches where each takes seconds.
	Brief bool
}

// RunDatapath runs every case of the conformance suite against a fresh Bench each: for
// TCP and UDP, over IPv4 and IPv6.
func RunDatapath(t *testing.T, h DatapathHarness) {
	t.Helper()
	type job struct {
		world
		datapathCase
	}
	jobs := make(chan job)
	var running sync.WaitGroup
	for range max(h.AtOnce, 1) {
		running.Go(func() {
			for j := range jobs {
				t.Run(j.world.String()+"/"+j.name, func(t *testing.T) {
					if h.Virtual {
						synctest.Test(t, func(t *testing.T) { runCase(t, h, j.datapathCase, j.world) })
						return
					}
					runCase(t, h, j.datapathCase, j.world)
				})
			}
		})
	}
	for _, w := range worlds() {
		for _, c := range w.cases(h.Brief) {
			jobs <- job{w, c}
		}
	}
	close(jobs)
	running.Wait()
}

// cases are those that make sense for w's traffic; what has nothing to do with traffic is
// looked at once.
func (w world) cases(brief bool) []datapathCase {
	list := slices.Concat(gateCases(), matchCases(), controllerCases())
	if !brief || w.family == bypass.IPv4 && w.proto == bypass.TCP {
		list = append(list, slices.Concat(leaseCases(), tetherCases(), ruleCases(), baseCases())...)
	}
	if w.proto == bypass.UDP {
		list = append(list, datapathCase{"UDP without a checksum is rewritten too", caseNoChecksum})
	} else {
		list = append(list, errorCases()...)
	}
	switch {
	case w.family == bypass.IPv6:
		list = append(list, datapathCase{"what is behind extension headers is left alone, or rewritten whole", caseExtensions})
	case w.proto == bypass.TCP:
		list = append(list, otherCases()...)
	}
	return list
}

// datapathCase is one named property.
type datapathCase struct {
	name string
	run  func(*env)
}

func runCase(t *testing.T, h DatapathHarness, c datapathCase, w world) {
	e := &env{t: t, b: h.New(t), world: w, hop: bypass.Hop{ID: 1, Src: uplinkMAC, Dst: routerMAC}}
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

const (
	patience = 15 * time.Second // for what will happen
	epoch    = 77
	peer     = 5
)

// env is what a case works with.
type env struct {
	world
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

// Sought tells whether a case may wait for frame: TCP, UDP, ICMP errors and echoes. Others
// come from whoever else is on the wires of a Bench.
func Sought(frame []byte) bool {
	if _, ok := Parse(frame); ok {
		return true
	}
	m, ok := ParseICMP(frame)
	return ok && (m.IsError() || m.Type == echoType(bypass.FamilyOf(m.Dst)))
}

// base is both workloads, one hop, and no guard.
func (e *env) base() bypass.Base {
	b := bypass.Base{Epoch: epoch, Lease: time.Minute, Hops: []bypass.Hop{e.hop}}
	for i, end := range []End{WorkloadA, WorkloadB} {
		b.Workloads = append(b.Workloads, bypass.Workload{
			Ofport: e.b.Ofport(end), MAC: workloadMAC[i], IPs: []netip.Addr{e.workloadIP[i]},
		})
	}
	return b
}

// guarded is base with a guard towards the peer.
func (e *env) guarded() bypass.Base {
	b := e.base()
	b.Guard = []bypass.AddrPair{{Local: e.underLocal, Remote: e.underRemote}}
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
