package bypass

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// proofs are both ends of a proof, with nothing between them.
type proofs struct {
	t    *testing.T
	now  time.Time
	ends [2]*proof         // lower, higher
	lost func(*probe) bool // which probes do not arrive; nil = all do
	bend func(*probe)      // what happens to the others on their way
	sent [2][]probe        // by each end
	told [2][]message      // by each end
	late [2][]func()       // with hold: what each end is still to get
	hold bool              // probes wait in late
}

func newProofs(t *testing.T) *proofs {
	x := &proofs{t: t, now: time.Unix(1000, 0)}
	for i := range x.ends {
		trust, n := &Trust{}, uint32(0)
		require.NoError(t, trust.normal())
		x.ends[i] = &proof{cfg: proofConfig{
			self: overlay.PeerID{byte(i)}, peer: overlay.PeerID{byte(1 - i)}, network: "n", epoch: uint64(i), trust: trust,
			lease: 30 * time.Second, mtu: 1400, ports: newPorts(DefaultPorts, randomUint64), draw: randomUint64,
			ruleID: func() uint32 { n++; return n },
		}}
	}
	return x
}

func proofAddr(end int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + end)}) }

func (x *proofs) route(end int) Route {
	return Route{Local: proofAddr(end), Src: tap.MAC{2, byte(end)}, Via: proofAddr(1 - end), NextHop: tap.MAC{2, byte(1 - end)}, OnLink: true, MTU: 1500}
}

func (x *proofs) ask() {
	x.do(0, x.ends[0].ask(proofAddr(0), 65535, x.now))
}

// do does what end wants done, and what follows from it.
func (x *proofs) do(end int, acts []proofAction) {
	p, peer := x.ends[end], x.ends[1-end]
	for _, a := range acts {
		switch a := a.(type) {
		case apply:
			x.do(end, p.listens(x.now))
		case tell:
			x.told[end] = append(x.told[end], a.message)
			x.do(1-end, x.receive(1-end, a.message))
		case emit:
			pr, err := parseProbe(a.frame)
			require.NoError(x.t, err)
			x.sent[end] = append(x.sent[end], pr)
			if x.lost != nil && x.lost(&pr) {
				continue
			}
			if x.bend != nil {
				x.bend(&pr)
			}
			arrive := func() {
				back, _ := peer.packet(&pr, x.now)
				x.do(1-end, back)
			}
			if x.hold {
				x.late[1-end] = append(x.late[1-end], arrive)
			} else {
				arrive()
			}
		}
	}
}

func (x *proofs) receive(end int, m message) []proofAction {
	p := x.ends[end]
	switch m.Kind {
	case msgChallenge:
		return p.challenged(m, x.route(end), x.now)
	case msgResponse:
		return p.responded(m, x.route(end), x.now)
	case msgReady:
		return p.readied(m, x.now)
	case msgResult:
		return p.resulted(m, x.now)
	case msgRefuse:
		return p.refused(m, x.now)
	}
	return nil
}

// after lets d pass, and end 0 tick; it returns what that end then sent.
func (x *proofs) after(d time.Duration, busy bool) []probe {
	x.now = x.now.Add(d)
	from := len(x.sent[0])
	x.do(0, x.ends[0].tick(x.now, busy))
	return x.sent[0][from:]
}

func (x *proofs) fresh() *proof {
	x.ask()
	for _, p := range x.ends {
		require.Equal(x.t, proofFresh, p.phase, p.reason.String())
	}
	return x.ends[0]
}

// TestRoundInNoTime: a round in which nothing takes any time is a good one.
func TestRoundInNoTime(t *testing.T) {
	x := newProofs(t)
	for _, p := range []*proof{x.fresh(), x.ends[1]} {
		require.Equal(t, ReasonNone, p.reason)
		require.Equal(t, 1500, p.mtu)
		require.Equal(t, x.now, p.since)
		require.Equal(t, x.now.Add(proofPing), p.due())
		require.Equal(t, 30*time.Second, p.peerLease)
		require.True(t, p.recent(x.now.Add(proofRecent)))
		require.False(t, p.recent(x.now.Add(proofRecent+1)))
		for i := range p.half {
			require.Equal(t, time.Duration(1), p.half[i].rtt)
			old := *p
			old.half[i].answered = x.now.Add(-1)
			require.False(t, old.recent(x.now.Add(proofRecent)), "both must be recent")
		}
	}
	require.Equal(t, x.ends[0].key, x.ends[1].key)
}

// TestPings: four a second while they matter, else one in five seconds.
func TestPings(t *testing.T) {
	x := newProofs(t)
	p := x.fresh()
	require.Empty(t, x.after(proofPing-1, true))
	require.Len(t, x.after(1, true), 2)
	require.Equal(t, x.now.Add(proofPing), p.due())
	require.Len(t, x.after(proofPing, true), 2, "busy")
	require.Empty(t, x.after(proofPing, false), "seen to work, and nothing depends on it")
	require.Equal(t, x.now.Add(proofIdlePing), p.due())
	p.hurry(x.now.Add(proofIdlePing - proofPing))
	require.Equal(t, x.now.Add(proofIdlePing), p.due(), "soon enough")
	p.hurry(x.now)
	require.Equal(t, x.now, p.due())
	for _, pr := range x.after(0, false) {
		require.Equal(t, proofPingSize, pr.size)
	}
	for _, unsure := range []func(p *proof){
		func(p *proof) { p.half[0].waiting = x.now }, func(p *proof) { p.half[1].waiting = x.now }, func(p *proof) { p.slow = x.now },
	} {
		require.True(t, p.pinged)
		unsure(p)
		require.Len(t, x.after(proofPing, false), 2, "one is unanswered")
	}
	require.Equal(t, proofFresh, p.phase)
}

// TestSilence: it is over when pings were unanswered for a second, and the reason is
// TCP's only if UDP goes on.
func TestSilence(t *testing.T) {
	for want, lost := range map[Reason]func(*probe) bool{
		ReasonProofTimeout: func(*probe) bool { return true },
		ReasonProofTCP:     func(pr *probe) bool { return pr.proto == TCP },
	} {
		x := newProofs(t)
		p := x.fresh()
		x.lost = lost
		for range 4 { // at 0, 0.25, 0.5 and 0.75 s
			require.NotEmpty(t, x.after(proofPing, true))
		}
		require.Equal(t, proofFresh, p.phase)
		before := *p
		require.Empty(t, before.tick(x.now.Add(proofPing-1), true))
		require.Empty(t, x.after(proofPing, true))
		require.Equal(t, proofFailed, p.phase)
		require.Equal(t, want, p.reason)
		require.Equal(t, proofFailed, x.ends[1].phase, "it was told")
	}
	x := newProofs(t)
	p := x.fresh()
	p.half[0].waiting, p.half[1].waiting = x.now.Add(1), x.now // UDP is not silent yet, but was not answered either
	x.now = x.now.Add(proofStale)
	x.do(0, p.tick(x.now, true))
	require.Equal(t, ReasonProofTimeout, p.reason)
	p = newProofs(t).fresh()
	p.half[0].waiting = x.now.Add(-proofStale)
	p.tick(x.now, true)
	require.Equal(t, ReasonProofTimeout, p.reason, "UDP alone")
}

// TestSlowness: answers may be late for a while, but not all of them for long.
func TestSlowness(t *testing.T) {
	x := newProofs(t)
	p := x.fresh()
	p.timed(DefaultMaxRTT, x.now)
	require.Zero(t, p.slow)
	p.timed(DefaultMaxRTT+1, x.now)
	require.Equal(t, x.now, p.slow)
	p.timed(DefaultMaxRTT+1, x.now.Add(1))
	require.Equal(t, x.now, p.slow, "since the first")
	early := *p
	early.tick(x.now.Add(proofSlow-1), true)
	require.Equal(t, proofFresh, early.phase)
	late := *p
	late.tick(x.now.Add(proofSlow), true)
	require.Equal(t, ReasonProofRTT, late.reason)
	p.timed(DefaultMaxRTT, x.now)
	require.Zero(t, p.slow)
}

// TestProbesOfARound: six of each, the first three that are not SYNs of full size.
func TestProbesOfARound(t *testing.T) {
	x := newProofs(t)
	x.lost = func(pr *probe) bool { return !pr.syn }
	x.ask()
	p := x.ends[0]
	require.Len(t, x.sent[0], 2+1+1, "a datagram and a SYN; the first segment, and an answer to B's SYN")
	require.Equal(t, x.now.Add(proofResend), p.due())
	require.Empty(t, x.after(proofResend-1, true))
	x.after(1, true)
	for range proofProbes - 2 {
		require.Equal(t, x.now.Add(proofResend), p.due())
		require.Len(t, x.after(proofResend, true), 2)
	}
	var sizes [2][]int
	for _, pr := range x.sent[0] {
		if !pr.syn {
			sizes[map[Proto]int{UDP: 0, TCP: 1}[pr.proto]] = append(sizes[map[Proto]int{UDP: 0, TCP: 1}[pr.proto]], pr.size)
		}
	}
	require.Equal(t, []int{1500, 1500, 1500, 96, 96, 96}, sizes[0])
	require.Equal(t, []int{1500, 1500, 1500, 96, 96, 96}, sizes[1])
	require.Equal(t, proofProbing, p.phase)
	require.Empty(t, x.after(proofResend, true))
	require.Equal(t, proofFailed, p.phase)
	require.Equal(t, ReasonProofTimeout, p.reason)
}

// TestHopsOfAProbe: as many routers as the Trust allows, and not one more, on the way
// there and on the way back.
func TestHopsOfAProbe(t *testing.T) {
	for _, allowed := range []int{0, 2} {
		for there := range 2 {
			for hops, ok := range map[int]bool{allowed: true, allowed + 1: false} {
				x := newProofs(t)
				x.ends[0].cfg.trust.MaxHops, x.ends[1].cfg.trust.MaxHops = allowed, allowed
				x.bend = func(pr *probe) {
					if pr.src.Addr() == proofAddr(there) {
						pr.ttl -= uint8(hops)
					}
				}
				x.ask()
				for range 2 * proofProbes {
					x.after(proofResend, true)
					x.do(1, x.ends[1].tick(x.now, true))
				}
				if ok {
					require.Equal(t, proofFresh, x.ends[0].phase)
				} else {
					require.Equal(t, ReasonProofHops, x.ends[0].reason)
				}
			}
		}
	}
}

// TestRoundTripBound: an answer just in time is good; a later one is not, but a better
// one may follow.
func TestRoundTripBound(t *testing.T) {
	for took, ok := range map[time.Duration]bool{DefaultMaxRTT: true, DefaultMaxRTT + 1: false} {
		x := newProofs(t)
		x.hold = true
		x.ask()
		x.now = x.now.Add(took)
		x.hold = false
		x.flush()
		require.Equal(t, ok, x.ends[0].half[0].ok)
		require.Equal(t, took, x.ends[0].half[0].rtt)
		x.after(proofResend, true)
		require.True(t, x.ends[0].half[0].ok)
		if !ok {
			require.Equal(t, time.Duration(1), x.ends[0].half[0].rtt, "the best one counts")
		}
	}
}

// flush lets arrive what was held.
func (x *proofs) flush() {
	for end := range x.late {
		late := x.late[end]
		x.late[end] = nil
		for _, f := range late {
			f()
		}
	}
}
