package ofctltest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/viasnet/vias/ofctl"
)

// Harness is one fresh switch under test, with empty tables that drop what they do
// not match, and the ends of the wires in its ports. It belongs to one test case,
// which calls it from one goroutine.
type Harness interface {
	// Connect opens one more OpenFlow connection. The Harness closes it at the end
	// of the case.
	Connect() ofctl.Switch
	// Ports are four ofports: trunks of all VLANs.
	Ports() []uint32
	// Send puts a frame into the switch by a port.
	Send(ofport uint32, frame []byte)
	// Expect is the next frame that left by a port, or nil after timeout.
	Expect(ofport uint32, timeout time.Duration) []byte
	// SetTag makes a port an access port of a VLAN.
	SetTag(ofport uint32, vlan uint16)
	// AddPort adds a port with this name, and DeletePort deletes it.
	AddPort(name string)
	DeletePort(name string)
	// Settle returns when the datapath acts by the tables as they are and counters
	// count what was forwarded.
	Settle()
}

// patience is for what will happen: a frame, an event.
const patience = 10 * time.Second

// conformanceCase is one named property.
type conformanceCase struct {
	name string
	run  func(*env)
}

// RunConformance runs every case against a fresh Harness each. Cases run in
// parallel: make must allow that.
func RunConformance(t *testing.T, make func(t *testing.T) Harness) {
	t.Helper()
	for _, c := range conformanceCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := &env{t: t, h: make(t), ctx: t.Context()}
			e.sw = e.h.Connect()
			copy(e.p[:], e.h.Ports())
			e.fence()
			c.run(e)
			e.quiet()
		})
	}
}

func conformanceCases() []conformanceCase {
	return slices.Concat(flowCases(), flagCases(), lifetimeCases(), tetherCases(), bundleCases(), groupCases(), meterCases(),
		rewriteCases(), pipelineCases(), matchCases(), normalCases(), controllerCases())
}

// env is what a case works with.
type env struct {
	t   *testing.T
	h   Harness
	ctx context.Context
	sw  ofctl.Switch
	p   [4]uint32
	// from are the ports that frames were sent into since the last quiet.
	from   []uint32
	fences uint32
}

// fenceCookie and fenceType mark the flow and the frames that quiet uses.
const (
	fenceCookie = 0xfe9ce0000000fe9c
	fenceType   = 0x88b5 // IEEE 802: for local experiments
)

// fence installs a flow that sends fence frames out of every port.
func (e *env) fence() {
	e.t.Helper()
	e.apply(ofctl.FlowMod{Flow: ofctl.Flow{
		Priority: 0xffff, Cookie: fenceCookie, Match: ofctl.Match{ofctl.EthType(fenceType)},
		Apply: []ofctl.Action{ofctl.Output{Port: ofctl.PortAll}, ofctl.Output{Port: ofctl.PortInPort}},
	}})
}

// apply applies mods and waits until the datapath has them.
func (e *env) apply(mods ...ofctl.Mod) {
	e.t.Helper()
	require.NoError(e.t, e.sw.Apply(e.ctx, mods))
	e.h.Settle()
}

// add adds flows.
func (e *env) add(flows ...ofctl.Flow) {
	e.t.Helper()
	mods := make([]ofctl.Mod, len(flows))
	for i, f := range flows {
		mods[i] = ofctl.FlowMod{Flow: f}
	}
	e.apply(mods...)
}

// refused asserts that Apply is refused by the switch with this error or, where the
// client can tell by itself, before it is sent; and that nothing changed.
func (e *env) refused(typ, code uint16, mods ...ofctl.Mod) {
	e.t.Helper()
	before, beforeGroups := e.flows(ofctl.AllFlows), e.groups()
	err := e.sw.Apply(e.ctx, mods)
	require.Error(e.t, err)
	if se, ok := errors.AsType[*ofctl.SwitchError](err); ok {
		require.Equal(e.t, [2]uint16{typ, code}, [2]uint16{se.Type, se.Code}, "%v", err)
	}
	require.NotErrorIs(e.t, err, ofctl.ErrClosed)
	require.Equal(e.t, texts(before), texts(e.flows(ofctl.AllFlows)))
	require.Equal(e.t, beforeGroups, e.groups())
}

// flows is a dump without the fence.
func (e *env) flows(filter ofctl.FlowFilter) []ofctl.FlowStat {
	e.t.Helper()
	e.h.Settle()
	fs, err := e.sw.Flows(e.ctx, filter)
	require.NoError(e.t, err)
	fs = slices.DeleteFunc(fs, func(f ofctl.FlowStat) bool { return f.Cookie == fenceCookie })
	slices.SortFunc(fs, func(a, b ofctl.FlowStat) int {
		return bytes.Compare([]byte(a.Flow.String()), []byte(b.Flow.String()))
	})
	return fs
}

// one is the only flow of the switch.
func (e *env) one() ofctl.FlowStat {
	e.t.Helper()
	fs := e.flows(ofctl.AllFlows)
	require.Len(e.t, fs, 1)
	return fs[0]
}

func (e *env) groups() []ofctl.Group {
	e.t.Helper()
	gs, err := e.sw.Groups(e.ctx)
	require.NoError(e.t, err)
	slices.SortFunc(gs, func(a, b ofctl.Group) int { return int(int64(a.ID) - int64(b.ID)) })
	return gs
}

func texts(fs []ofctl.FlowStat) []string {
	out := make([]string, len(fs))
	for i, f := range fs {
		out[i] = f.Flow.String()
	}
	return out
}

// send puts a frame into port number i of the four.
func (e *env) send(i int, frame []byte) {
	if !slices.Contains(e.from, e.p[i]) {
		e.from = append(e.from, e.p[i])
	}
	e.h.Send(e.p[i], frame)
}

// want asserts that the next frame out of port number i is this one.
func (e *env) want(i int, frame []byte) {
	e.t.Helper()
	got := e.h.Expect(e.p[i], patience)
	require.NotNil(e.t, got, "no frame came out of port %d", e.p[i])
	require.Equal(e.t, frame, got)
}

// quiet asserts that no frame but those that were wanted left the switch: it sends
// a fence frame the way of the others, behind which none of them can come.
func (e *env) quiet() {
	e.t.Helper()
	if len(e.from) == 0 {
		e.from = append(e.from, e.p[0])
	}
	for _, from := range e.from {
		e.fences++
		fence := ethernet([6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, macC, fenceType,
			binary.BigEndian.AppendUint32(make([]byte, 46), e.fences))
		e.h.Send(from, fence)
		for _, no := range e.p {
			got := e.h.Expect(no, patience)
			require.NotNil(e.t, got, "no fence came out of port %d", no)
			require.Equal(e.t, fence, got, "out of port %d", no)
		}
	}
	e.from = nil
}

// watch watches from before it returns: everything that happens later is seen.
func (e *env) watch(sw ofctl.Switch) *events {
	e.t.Helper()
	w := &events{e: e, c: make(chan ofctl.Event, 4096), end: make(chan error, 1)}
	ctx, cancel := context.WithCancel(e.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.end <- sw.Watch(ctx, func(ev ofctl.Event) { w.c <- ev })
	}()
	e.t.Cleanup(func() { cancel(); <-done })
	// A watcher is there when it sees a packet-in that was made for it; those made
	// before have gone by when the last is seen.
	hello := ethernet(macA, macC, fenceType, []byte("are you there?"))
	for n := byte(0); ; n++ {
		frame := append(hello, n)
		require.NoError(e.t, sw.PacketOut(e.ctx, ofctl.PacketOut{
			Actions: []ofctl.Action{ofctl.ToController(0xffff)}, Frame: frame,
		}))
		if w.sees(frame, 50*time.Millisecond) {
			return w
		}
		require.Less(e.t, n, byte(200), "the watcher sees no packet-in")
	}
}

// events is a running Watch.
type events struct {
	e   *env
	c   chan ofctl.Event
	end chan error
}

// sees tells whether a packet-in with this frame comes within d.
func (w *events) sees(frame []byte, d time.Duration) bool {
	timeout := time.After(d)
	for {
		select {
		case ev := <-w.c:
			if pi, ok := ev.(ofctl.PacketIn); ok && bytes.Equal(pi.Frame, frame) {
				return true
			}
		case <-timeout:
			return false
		}
	}
}

// next is the next event of type T; others before it are passed over.
func next[T ofctl.Event](w *events) T {
	w.e.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case ev := <-w.c:
			if v, ok := ev.(T); ok {
				return v
			}
		case <-timeout:
			var none T
			require.FailNow(w.e.t, "no event", "%T", none)
			return none
		}
	}
}
