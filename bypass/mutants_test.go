package bypass

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Tests of exact bounds, which mutation testing asked for: see docs/mutation.md.

// scripted draws the numbers of a list, and its last one for ever.
func scripted(numbers ...uint64) func() uint64 {
	return func() uint64 {
		n := numbers[0]
		if len(numbers) > 1 {
			numbers = numbers[1:]
		}
		return n
	}
}

// TestPortRangeIsSplit: every port of the range is either for flows or for probes.
func TestPortRangeIsSplit(t *testing.T) {
	p := newPorts(DefaultPorts, randomUint64)
	for _, c := range []struct {
		port        uint16
		flow, probe bool
	}{
		{1, false, false}, {61439, false, false}, {61440, true, false},
		{65279, true, false}, {65280, false, true}, {65535, false, true},
	} {
		require.Equal(t, c.flow, p.flowPort(c.port), "%d", c.port)
		require.Equal(t, c.probe, p.probePort(c.port), "%d", c.port)
	}
	require.Equal(t, 65280-61440, p.flowPorts())
}

// TestProbePortsAvoidTaken: the next port that is free follows the one that was drawn,
// within its own slot.
func TestProbePortsAvoidTaken(t *testing.T) {
	const first, slot = 65280, 128
	for name, c := range map[string]struct {
		draw  []uint64
		taken []uint16
		want  []uint16
	}{
		"free":        {[]uint64{0, 127}, nil, []uint16{first, first + slot + 127}},
		"taken":       {[]uint64{5, 9}, []uint16{first + 5, first + 6, first + slot + 9}, []uint16{first + 7, first + slot + 10}},
		"wraps":       {[]uint64{127, 126}, []uint16{first + 127, first + slot + 126, first + slot + 127}, []uint16{first, first + slot}},
		"the other's": {[]uint64{3, 3}, []uint16{first + slot + 3}, []uint16{first + 3, first + slot + 4}},
	} {
		p := newPorts(DefaultPorts, scripted(c.draw...))
		taken := func(port uint16) bool {
			for _, x := range c.taken {
				if x == port {
					return true
				}
			}
			return false
		}
		require.Equal(t, c.want, p.probe(2, taken), name)
	}
	p, tries := newPorts(DefaultPorts, scripted(5)), 0
	for _, port := range p.probe(2, func(uint16) bool { tries++; return true }) {
		require.True(t, p.probePort(port), "all are taken: one of them is")
	}
	require.Equal(t, 2*(slot-1), tries)
}

// TestProposeSearchesUpwards: where chance finds nothing, the pairs behind the last one
// drawn are tried in turn.
func TestProposeSearchesUpwards(t *testing.T) {
	now := time.Unix(1000, 0)
	local, remote := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	at := func(ours, theirs uint16) tuple {
		return tuple{TCP, netip.AddrPortFrom(local, 61440+ours), netip.AddrPortFrom(remote, 61440+theirs)}
	}
	for _, c := range []struct{ theirs, want uint16 }{{5, 6}, {3839, 0}} {
		draws := 0
		pick := func() uint64 {
			if draws++; draws%2 == 1 {
				return 7
			}
			return uint64(c.theirs)
		}
		p := newPorts(DefaultPorts, pick)
		require.True(t, p.take(at(7, c.theirs), now))
		got, ok := p.propose(TCP, local, remote, now)
		require.True(t, ok)
		require.Equal(t, at(7, c.want), got)
	}
}

// TestTuplesOfOneHostAreBounded: what rests counts, and may be taken again all the same.
func TestTuplesOfOneHostAreBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	p := newPorts(DefaultPorts, randomUint64)
	at := func(i byte, port uint16) tuple {
		return tuple{TCP, netip.MustParseAddrPort("10.0.0.1:61440"), netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, i}), port)}
	}
	k, _ := at(2, 1).key()
	p.held[k.dst] = maxTuples - 1
	require.True(t, p.take(at(2, 1), now), "the last one")
	require.Equal(t, maxTuples, p.held[k.dst])
	require.False(t, p.take(at(2, 2), now))
	require.True(t, p.take(at(3, 2), now), "another host's")
	p.free(at(2, 1), now.Add(time.Minute))
	require.Equal(t, maxTuples, p.held[k.dst], "it rests")
	require.True(t, p.take(at(2, 1), now.Add(time.Minute)))
	p.free(at(2, 1), now.Add(2*time.Minute))
	p.sweep(now.Add(2*time.Minute - 1))
	require.Equal(t, maxTuples, p.held[k.dst])
	p.sweep(now.Add(2 * time.Minute))
	require.Equal(t, maxTuples-1, p.held[k.dst], "forgotten as soon as it may be taken")
	require.True(t, p.take(at(2, 2), now))
	p.free(at(3, 2), now)
	p.sweep(now)
	require.Len(t, p.held, 1, "hosts of which nothing is left are forgotten")
}

// TestSmallestProbe: a probe is never too small for its text.
func TestSmallestProbe(t *testing.T) {
	k := testKey(t, "")
	for proto, size := range map[Proto]int{UDP: 20 + 8 + 29, TCP: 20 + 20 + 29} {
		for want, asked := range map[int]int{size: 1, size + 1: size + 1} {
			p := probe{proto: proto, src: netip.MustParseAddrPort("10.0.0.1:65500"), dst: netip.MustParseAddrPort("10.0.0.2:65501")}
			k.seal(&p, probeReply, 7, 8, asked)
			f, err := p.frame(macA, macB)
			require.NoError(t, err)
			require.Len(t, f, 14+want)
			got, err := parseProbe(f)
			require.NoError(t, err)
			what, round, n, ok := k.open(&got, p.src, p.dst)
			require.True(t, ok)
			require.Equal(t, [3]any{byte(probeReply), uint64(7), uint32(8)}, [3]any{what, round, n})
			got.text = got.text[:28]
			_, _, _, ok = k.open(&got, p.src, p.dst)
			require.False(t, ok, "cut")
		}
	}
}

// TestTrustsBounds: what a Trust may say at all.
func TestTrustsBounds(t *testing.T) {
	for _, c := range []struct {
		trust Trust
		ok    bool
	}{
		{Trust{}, true},
		{Trust{MaxHops: 32}, true}, {Trust{MaxHops: 33}, false}, {Trust{MaxHops: -1}, false},
		{Trust{MaxRTT: 1}, true}, {Trust{MaxRTT: -1}, false},
		{Trust{Domain: string(make([]byte, 255))}, true}, {Trust{Domain: string(make([]byte, 256))}, false},
		{Trust{Prefixes: []netip.Prefix{{}}}, false},
	} {
		rtt := c.trust.MaxRTT
		err := c.trust.normal()
		require.Equal(t, c.ok, err == nil, "%+v", c.trust)
		if rtt != 0 {
			require.Equal(t, rtt, c.trust.MaxRTT)
		} else {
			require.Equal(t, DefaultMaxRTT, c.trust.MaxRTT)
		}
	}
	require.Equal(t, 2*time.Millisecond, DefaultMaxRTT)
}

// TestLeaseTimes: an outbound gate has run out, and the peer has noticed that we fell
// silent, before an inbound gate that nobody confirms any more runs out.
func TestLeaseTimes(t *testing.T) {
	require.Equal(t, 12*time.Second, outboundLease(30*time.Second))
	require.Equal(t, 4*time.Second, outboundLease(11*time.Second), "whole seconds")
	require.Equal(t, 5*time.Second, renewEvery(30*time.Second))
	now := time.Unix(1000, 0)
	l := &loop{cfg: HostConfig{Lease: 30 * time.Second}}
	for _, c := range []struct {
		peers, need time.Duration // the peer's lease
		live        int
	}{
		{10 * time.Second, 12*time.Second + 6250*time.Millisecond, 1},
		{60 * time.Second, 24*time.Second + 6250*time.Millisecond, 1},
		{60 * time.Second, 0, 0},
	} {
		p := &peer{live: map[Proto]int{TCP: c.live}, gates: map[Proto]gate{TCP: {in: now.Add(c.need)}}}
		p.proof.peerLease = c.peers
		require.False(t, l.overdue(p, now))
		p.gates[TCP] = gate{in: now.Add(c.need - 1)}
		require.Equal(t, c.live > 0, l.overdue(p, now))
	}
}

// TestGated: a flow is added without renewing the gates only if both are open for long.
func TestGated(t *testing.T) {
	now := time.Unix(1000, 0)
	l := &loop{cfg: HostConfig{Lease: 30 * time.Second}}
	const out, in = 6 * time.Second, 24 * time.Second
	for _, c := range []struct {
		out, in time.Duration
		gated   bool
	}{{out, in, true}, {out - 1, in, false}, {out, in - 1, false}} {
		p := &peer{gates: map[Proto]gate{TCP: {now.Add(c.out), now.Add(c.in)}}}
		require.Equal(t, c.gated, l.gated(p, TCP, now), "%+v", c)
		require.False(t, l.gated(p, UDP, now))
	}
}

// TestGatesAsConfirmed: what the switch took counts from when it was sent; what it may
// have taken counts for the shorter time; what it refused changes nothing.
func TestGatesAsConfirmed(t *testing.T) {
	now := time.Unix(1000, 0)
	l := &loop{}
	was := gate{now.Add(5 * time.Second), now.Add(50 * time.Second)}
	c := Change{Leases: []Lease{{Proto: TCP, Outbound: 12 * time.Second, Inbound: 30 * time.Second}}}
	full := gate{now.Add(12 * time.Second), now.Add(30 * time.Second)}
	for _, x := range []struct {
		err  error
		live int
		want gate
	}{
		{nil, 1, full},
		{ErrUnconfirmed, 1, gate{was.out, full.in}},
		{ErrSwitchDown, 1, gate{was.out, full.in}},
		{net.ErrClosed, 1, was},
		{nil, 0, was},
	} {
		p := &peer{live: map[Proto]int{TCP: x.live}, gates: map[Proto]gate{TCP: was}}
		l.leased(p, c, now)(x.err)
		require.Equal(t, x.want, p.gates[TCP], "%v", x.err)
	}
	p := &peer{live: map[Proto]int{TCP: 1}, gates: map[Proto]gate{TCP: was}}
	l.leased(p, Change{Leases: []Lease{{Proto: TCP}}}, now)(nil)
	require.Equal(t, gate{}, p.gates[TCP], "closed")
}

// TestPaceOf: a burst at once, then one every so often.
func TestPaceOf(t *testing.T) {
	var p pace
	now := time.Unix(1000, 0)
	for i := range 3 {
		require.True(t, p.allow(now, time.Second, 3), "%d", i)
	}
	require.False(t, p.allow(now, time.Second, 3))
	require.True(t, p.allow(now.Add(1), time.Second, 3), "a moment later there is room for one")
	require.False(t, p.allow(now.Add(time.Second), time.Second, 3))
	require.True(t, p.allow(now.Add(time.Second+1), time.Second, 3))
	require.False(t, p.allow(now.Add(2*time.Second), time.Second, 3))
	now = now.Add(time.Hour)
	for range 3 {
		require.True(t, p.allow(now, time.Second, 3), "what was not used does not add up")
	}
	require.False(t, p.allow(now, time.Second, 3))
}

// TestAdmitBounds: so many wait, and no more; who has been served makes room.
func TestAdmitBounds(t *testing.T) {
	l := &loop{box: newMailbox()}
	var waiting atomic.Int32
	for range maxPending {
		require.True(t, l.admit(&waiting, func() {}))
	}
	for range 2 {
		require.False(t, l.admit(&waiting, func() {}))
		require.EqualValues(t, maxPending, waiting.Load())
	}
	for _, job := range l.box.take() {
		job()
	}
	require.Zero(t, waiting.Load())
}

// TestVerdictsBounds: defaults and bounds of a policy's answer.
func TestVerdictsBounds(t *testing.T) {
	for _, c := range []struct{ hold, idle, wantHold, wantIdle time.Duration }{
		{0, 0, DefaultHold, DefaultIdle},
		{-1, 1, 0, time.Second},
		{1, 1400 * time.Millisecond, 1, time.Second},
		{MaxHold + 1, 1500 * time.Millisecond, MaxHold, 2 * time.Second},
	} {
		v := Verdict{Hold: c.hold, Idle: c.idle}.normal()
		require.Equal(t, [2]time.Duration{c.wantHold, c.wantIdle}, [2]time.Duration{v.Hold, v.Idle}, "%+v", c)
	}
	require.Equal(t, [3]time.Duration{5 * time.Millisecond, 20 * time.Millisecond, time.Minute}, [3]time.Duration{DefaultHold, MaxHold, DefaultIdle})
}

// TestDeadlines: how long each phase waits.
func TestDeadlines(t *testing.T) {
	now := time.Unix(1000, 0)
	after := func(d time.Duration) time.Time { return now.Add(d) }
	for _, c := range []struct {
		phase phase
		event event
		want  time.Time
	}{
		{phaseOverlay, evStart, after(2 * time.Second)},
		{phaseOffered, evAccept, time.Time{}},
		{phaseInstalling, evApplied, after(2 * time.Second)},
		{phaseConfirming, evDone, time.Time{}},
		{phasePreparing, evApplied, after(33 * time.Second)}, // the answer, the longer lease, and the drain
		{phaseAccepted, evConfirm, time.Time{}},
		{phaseAccepted, evClose, after(time.Second)},
		{phaseActive, evLeave, time.Time{}},
		{phaseUnbinding, evFailed, after(time.Second)},
		{phaseUnbinding, evApplied, after(time.Second)},
		{phaseClosing, evLinkUp, after(time.Second)},
		{phaseClosing, evCloseAck, after(time.Second)},
		{phaseDraining, evDeadline, time.Time{}},
		{phaseRemoving, evUnsure, after(time.Second)},
		{phaseRemoving, evApplied, time.Time{}},
	} {
		tx := testTxn()
		tx.phase, tx.offered, tx.deadline = c.phase, now, now.Add(time.Hour)
		next, _ := step(tx, input{event: c.event, reason: ReasonPolicy}, now, testLimits)
		require.Equal(t, c.want, next.deadline, "%v meets %v", c.phase, c.event)
	}
}

// TestAcceptInTime: an Accept that comes just in time is used.
func TestAcceptInTime(t *testing.T) {
	now := time.Unix(1000, 0)
	tx, _ := step(testTxn(), input{event: evStart}, now, testLimits)
	tx, _ = step(tx, input{event: evAccept}, now.Add(testLimits.answer), testLimits)
	require.Equal(t, phaseInstalling, tx.phase)
}

// TestFirstReasonCounts: why a flow leaves is what was found first, unless the peer is
// another one by now.
func TestFirstReasonCounts(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, p := range []phase{phaseInstalling, phasePreparing, phaseCompleting} {
		for _, end := range []event{evApplied, evFailed, evUnsure} {
			tx := testTxn()
			tx.phase = p
			tx, _ = step(tx, input{event: evLeave, reason: ReasonPolicy}, now, testLimits)
			tx, _ = step(tx, input{event: evLeave, reason: ReasonShutdown}, now, testLimits)
			require.Equal(t, ReasonPolicy, tx.reason, "%v", p)
			ended, _ := step(tx, input{event: end}, now, testLimits)
			if p != phasePreparing || end != evUnsure {
				require.Equal(t, ReasonPolicy, ended.reason, "%v, %v", p, end)
			}
			tx, _ = step(tx, input{event: evPeerReset}, now, testLimits)
			require.Equal(t, ReasonPeerRestarted, tx.reason, "%v", p)
		}
		tx := testTxn()
		tx.phase = p
		failed, _ := step(tx, input{event: evFailed}, now, testLimits)
		require.Equal(t, ReasonSwitch, failed.reason, "%v", p)
	}
}

// TestUntold: the peer may still send only while it was not told, or has not said, that
// the flow is over.
func TestUntold(t *testing.T) {
	for p := range phases {
		is := p == phaseUnbinding || p == phaseClosing
		require.Equal(t, is, txn{phase: p}.untold(), "%v", p)
		require.False(t, txn{phase: p, peerOff: true}.untold(), "%v", p)
	}
}

// TestRising: what counts in the initiator's window.
func TestRising(t *testing.T) {
	for p := range phases {
		up := p == phaseOffered || p == phaseInstalling || p == phaseConfirming
		require.Equal(t, up, (&txn{phase: p, initiator: true}).rising(), "%v", p)
		require.False(t, (&txn{phase: p}).rising(), "%v", p)
	}
}

// TestDetachedOnly: only a workload that is gone takes its inbound rule with it.
func TestDetachedOnly(t *testing.T) {
	now := time.Unix(1000, 0)
	for reason, acts := range map[Reason]string{ReasonPolicy: "-outbound", ReasonDetached: "-outbound -inbound"} {
		tx := testTxn()
		tx.phase = phaseActive
		next, got := step(tx, input{event: evLeave, reason: reason}, now, testLimits)
		require.Equal(t, acts, words(got))
		require.Equal(t, reason == ReasonDetached, next.detached)
	}
	tx := testTxn()
	tx.phase = phaseActive
	tx, _ = step(tx, input{event: evClose, reason: ReasonDetached}, now, testLimits)
	require.False(t, tx.detached, "that is the peer's")
}

// TestWhyChanges: flows that wait for a proof learn that it fails for another reason now.
func TestWhyChanges(t *testing.T) {
	l, m, p := bareLoop(t)
	now := time.Now()
	p.proof.phase, p.proof.reason, p.proof.deadline = proofFailed, ReasonProofTimeout, now.Add(time.Hour)
	l.request(m, manyFlow(0), Verdict{Bypass: true}, now)
	l.settle()
	reason := func() Reason { s, _ := m.Status(manyFlow(0)); return s.Reason }
	require.Equal(t, ReasonProofTimeout, reason())
	l.onProofMessage(p, message{Kind: msgRefuse, ID: 77, Reason: ReasonDomain}, now)
	require.Equal(t, p.proof.reason, reason())
	require.NotEqual(t, ReasonProofTimeout, reason())
	e := m.find(manyFlow(0))
	e.t.reason = ReasonQueued
	l.onProofMessage(p, message{Kind: msgRefuse, ID: 77, Reason: ReasonDomain}, now)
	require.Equal(t, ReasonQueued, e.t.reason, "nothing new")
}

// takes is a switch whose Apply is a function.
type takes struct {
	Datapath
	apply func(Change) error
}

func (d takes) Apply(_ context.Context, c Change) error { return d.apply(c) }

// TestOneRefusedOfMany: of changes that were made at once and refused, each is tried by
// itself, so that one that is wrong spoils no other. What may have happened is not.
func TestOneRefusedOfMany(t *testing.T) {
	refused := errors.New("refused")
	rule := func(id uint32) Change {
		return Change{Add: []Rule{{ID: id, Direction: Inbound, Ofport: id, Flow: manyFlow(int(id))}}}
	}
	for name, c := range map[string]struct {
		err   error // of whatever has rule 2
		ids   []uint32
		calls int
		want  []error
	}{
		"all are taken": {nil, []uint32{1, 2, 3}, 1, []error{nil, nil, nil}},
		"one is wrong":  {refused, []uint32{1, 2, 3}, 4, []error{nil, refused, nil}},
		"alone":         {refused, []uint32{2}, 1, []error{refused}},
		"unconfirmed":   {ErrUnconfirmed, []uint32{1, 2}, 1, []error{ErrUnconfirmed, ErrUnconfirmed}},
		"switch down":   {ErrSwitchDown, []uint32{1, 2}, 1, []error{ErrSwitchDown, ErrSwitchDown}},
		"stalled":       {context.DeadlineExceeded, []uint32{1, 2}, 1, []error{ErrUnconfirmed, ErrUnconfirmed}},
	} {
		calls, got := 0, make([]error, len(c.ids))
		l, _, _ := bareLoop(t)
		l.box.take()
		l.dp = takes{apply: func(ch Change) error {
			calls++
			for _, r := range ch.Add {
				if r.ID == 2 {
					return c.err
				}
			}
			return nil
		}}
		for i, id := range c.ids {
			ch := rule(id)
			ch.Add[0].Local, ch.Add[0].Remote = netip.AddrPortFrom(proofAddr(0), uint16(id)), netip.AddrPortFrom(proofAddr(1), uint16(id))
			l.enqueue(ch, func(err error) { got[i] = err })
			require.Equal(t, i+1, l.changes)
		}
		require.Equal(t, len(c.ids), l.makeSome(t.Context(), l.change.take()), name)
		for _, job := range l.box.take() {
			job()
		}
		require.Equal(t, c.calls, calls, name)
		require.Zero(t, l.changes, name)
		for i := range got {
			require.ErrorIs(t, got[i], c.want[i], name)
			require.Equal(t, c.want[i] == nil, got[i] == nil, name)
		}
	}
}

// TestGatesGoAlone: only a change of nothing but gates waits for nothing.
func TestGatesGoAlone(t *testing.T) {
	lease := []Lease{{Peer: 1, Proto: TCP}}
	rule := []Rule{{ID: 1}}
	for _, c := range []struct {
		change Change
		alone  bool
	}{
		{Change{Leases: lease}, true},
		{Change{Leases: lease, Add: rule}, false},
		{Change{Leases: lease, Remove: rule}, false},
		{Change{Leases: lease, Purge: []RuleStat{{}}}, false},
		{Change{Leases: lease, Add: rule, Purge: []RuleStat{{}}}, false},
		{Change{Add: []Rule{{ID: 5}}}, false},
		{Change{}, false},
	} {
		b := newBatch()
		require.True(t, b.join(c.change))
		require.Equal(t, c.alone, b.alone, "%+v", c.change)
	}
}

// TestBatchIsBounded: additions and removals count alike.
func TestBatchIsBounded(t *testing.T) {
	rules := func(n, from int) (out []Rule) {
		for i := range n {
			at := uint16(from + i)
			out = append(out, Rule{ID: uint32(at), Direction: Inbound, Local: netip.AddrPortFrom(proofAddr(0), at)})
		}
		return out
	}
	for _, c := range []struct {
		first, second Change
		joins         bool
	}{
		{Change{Add: rules(maxBatch-1, 1)}, Change{Add: rules(1, 5000)}, true},
		{Change{Add: rules(maxBatch-1, 1)}, Change{Remove: rules(1, 5000)}, true},
		{Change{Add: rules(maxBatch-1, 1), Remove: rules(1, 4000)}, Change{Add: rules(1, 5000)}, false},
		{Change{Add: rules(1, 4000), Remove: rules(maxBatch-1, 1)}, Change{Remove: rules(1, 5000)}, false},
		{Change{Add: rules(maxBatch-1, 1)}, Change{Add: rules(1, 5000), Remove: rules(1, 5001)}, false},
	} {
		b := newBatch()
		require.True(t, b.join(c.first))
		require.Equal(t, c.joins, b.join(c.second))
	}
}

// TestAbandonedFlows leave nothing behind but a tuple that rests.
func TestAbandonedFlows(t *testing.T) {
	l, m, p := bareLoop(t)
	now := time.Now()
	l.request(m, manyFlow(0), Verdict{Bypass: true}, now)
	l.settle()
	e := m.find(manyFlow(0))
	tu := e.t.tuple
	require.Equal(t, phaseOffered, e.t.phase)
	require.Equal(t, 1, p.live[TCP])
	require.Equal(t, 1, p.queue.moving)
	l.abandon(e, now)
	require.Equal(t, phaseOverlay, e.t.phase)
	require.Zero(t, p.live[TCP])
	require.Zero(t, p.queue.moving)
	require.Empty(t, p.txns)
	require.Empty(t, l.byRule)
	rests := now.Add(max(l.cfg.Quarantine, l.longestLease(p)))
	require.False(t, l.ports.take(tu, rests.Add(-time.Millisecond)))
	require.True(t, l.ports.take(tu, rests))
	l.abandon(e, now)
	require.Zero(t, p.live[TCP], "it has ended already")
}

// TestGuardFollowsTheProof: what the proof changes of the slow half is told to the
// switch, and nothing is when it changes nothing.
func TestGuardFollowsTheProof(t *testing.T) {
	l, _, p := bareLoop(t)
	told := func(f func()) bool {
		before := l.base.version
		l.prove(p, func() []proofAction { f(); return nil })
		return l.base.version != before
	}
	p.proof.phase, p.proof.deadline = proofListening, time.Now().Add(time.Hour)
	require.False(t, told(func() {}))
	require.True(t, told(func() { p.proof.remote = netip.MustParseAddr("10.0.0.77") }), "the peer has another address")
	require.True(t, told(func() { p.proof.phase = proofProbing }))
}
