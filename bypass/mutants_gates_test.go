package bypass

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

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
		{Change{Leases: lease, Add: rule, Remove: []Rule{{ID: 2, Ofport: 1}}}, false},
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

// TestNothingToRenew: a peer without flows or a proof costs the switch nothing.
func TestNothingToRenew(t *testing.T) {
	l, _, p := bareLoop(t)
	p.proof.phase = proofFailed
	l.renewPeer(p, time.Now())
	require.Empty(t, l.change.take())
	p.live[TCP] = 1
	l.renewPeer(p, time.Now())
	require.Len(t, l.change.take(), 1)
}
