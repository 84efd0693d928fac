package bypass

import (
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
	k := at(2, 1).remote.Addr()
	p.held[k] = maxTuples - 1
	require.True(t, p.take(at(2, 1), now), "the last one")
	require.Equal(t, maxTuples, p.held[k])
	require.False(t, p.take(at(2, 2), now))
	require.True(t, p.take(at(3, 2), now), "another host's")
	p.free(at(2, 1), now.Add(time.Minute))
	require.Equal(t, maxTuples, p.held[k], "it rests")
	require.True(t, p.take(at(2, 1), now.Add(time.Minute)))
	p.free(at(2, 1), now.Add(2*time.Minute))
	p.sweep(now.Add(2*time.Minute - 1))
	require.Equal(t, maxTuples, p.held[k])
	p.sweep(now.Add(2 * time.Minute))
	require.Equal(t, maxTuples-1, p.held[k], "forgotten as soon as it may be taken")
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

// TestWhatAPeerMayCost: each bound lets its burst through, and no more; and a peer that
// tells of all its transactions as fast as it may is heeded all the time.
func TestWhatAPeerMayCost(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		every time.Duration
		burst int
	}{{roundEvery, roundBurst}, {tellEvery, tellBurst}, {heedEvery, heedBurst}, {logEvery, logBurst}} {
		var p pace
		for range c.burst {
			require.True(t, p.allow(now, c.every, c.burst))
		}
		require.False(t, p.allow(now, c.every, c.burst))
	}
	var p pace
	for range 100 {
		for range aliveBurst {
			require.True(t, p.allow(now, heedEvery, heedBurst))
		}
		now = now.Add(alivePause)
	}
	require.Equal(t, 3, maxPeerFlows/(maxFlows/4), "three quarters of all flows")
	require.Zero(t, maxPeerFlows%(maxFlows/4))
}

// TestAdmitBounds: so many wait, and no more; who has been served makes room.
func TestAdmitBounds(t *testing.T) {
	l := &loop{box: newMailbox()}
	var waiting atomic.Int32
	for range maxPending {
		require.True(t, l.admit(l.box, &waiting, func() {}))
	}
	for range 2 {
		require.False(t, l.admit(l.box, &waiting, func() {}))
		require.EqualValues(t, maxPending, waiting.Load())
	}
	for _, job := range l.box.take() {
		job()
	}
	require.Zero(t, waiting.Load())
}

// TestDue: TCP is asked for after its bytes, UDP after its bytes or packets.
func TestDue(t *testing.T) {
	for _, c := range []struct {
		v              Verdict
		p              Proto
		packets, bytes int64
		want           bool
	}{
		{Verdict{}, TCP, 0, 0, true},
		{Verdict{After: 100}, TCP, 1000, 99, false},
		{Verdict{After: 100, Packets: 1}, TCP, 2, 99, false},
		{Verdict{After: 100}, TCP, 1, 100, true},
		{Verdict{}, UDP, DefaultUDPPackets - 1, DefaultUDPBytes - 1, false},
		{Verdict{}, UDP, DefaultUDPPackets, 0, true},
		{Verdict{}, UDP, 0, DefaultUDPBytes, true},
		{Verdict{After: 100, Packets: 3}, UDP, 2, 99, false},
		{Verdict{After: 100, Packets: 3}, UDP, 2, 100, true},
		{Verdict{After: 100, Packets: 3}, UDP, 3, 0, true},
		{Verdict{After: 1 << 20}, UDP, DefaultUDPPackets, 0, true},
		{Verdict{Packets: 1000}, UDP, 999, DefaultUDPBytes, true},
		{Verdict{Packets: 1000}, UDP, 999, DefaultUDPBytes - 1, false},
	} {
		require.Equal(t, c.want, c.v.Due(c.p, c.packets, c.bytes), "%+v", c)
	}
	require.Equal(t, [2]int{16 << 10, 16}, [2]int{DefaultUDPBytes, DefaultUDPPackets})
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
