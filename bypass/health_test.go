package bypass_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
)

// newFlowPair is a pair with one flow of proto.
func newFlowPair(t *testing.T, proto bypass.Proto) *pair {
	p := newPair(t, nil)
	p.flow.Proto = proto
	p.bypassed(time.Second)
	return p
}

// sends has n's workload send one packet of the flow.
func (p *pair) sends(n *node) {
	f := p.flow
	if n == p.b {
		f = f.Reverse()
	}
	n.sw.Send(ofport, bypasstest.Packet{SrcMAC: n.mac, DstMAC: n.peer.mac, Flow: f, Flags: bypasstest.FlagACK, Payload: []byte("marker")}.Frame())
}

// breaks drops what goes from n between the flow's own ports, as they are now, and
// nothing else: probes pass.
func (p *pair) breaks(n *node) bypass.Status {
	s := n.status(p.flow)
	p.wire.Drop(func(w bypasstest.Packet) bool {
		return w.Flow == bypass.Flow{Proto: p.flow.Proto, Src: s.Local, Dst: s.Remote}
	})
	return s
}

// A flow whose five-tuple the path drops, in one direction only, while probes pass, is
// taken off the bypass within seconds, at both ends with the reason, and comes back
// between other ports.
func TestBrokenFlowLeaves(t *testing.T) {
	for _, proto := range []bypass.Proto{bypass.TCP, bypass.UDP} {
		for _, from := range []string{"initiator", "responder"} {
			for _, lag := range []time.Duration{0, time.Second} {
				for _, busyBefore := range []bool{false, true} {
					t.Run(fmt.Sprint(proto, "/", from, "/lag ", lag, "/busy ", busyBefore), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							p := newFlowPair(t, proto)
							p.a.sw.Lag(lag)
							p.b.sw.Lag(lag)
							n := map[string]*node{"initiator": p.a, "responder": p.b}[from]
							testBroken(t, p, n, busyBefore)
						})
					})
				}
			}
		}
	}
}

func testBroken(t *testing.T, p *pair, n *node, busyBefore bool) {
	for range 200 {
		if busyBefore {
			p.sends(p.a)
			p.sends(p.b)
		}
		<-time.After(50 * time.Millisecond)
	}
	was := p.breaks(n)
	limit := 5 * time.Second
	if busyBefore {
		limit = 9 * time.Second // the counters from before must have come to rest
	}
	start := time.Now()
	until(t, limit, "off the bypass", func() bool {
		p.sends(n)
		return p.a.status(p.flow).State != bypass.Bypassed && p.b.status(p.flow).State != bypass.Bypassed
	})
	t.Log("left after", time.Since(start))
	require.Equal(t, bypass.ReasonFlowBroken, p.a.status(p.flow).Reason)
	require.Equal(t, bypass.ReasonFlowBroken, p.b.status(p.flow).Reason)
	p.onOverlay(5 * time.Second)
	require.False(t, n.status(p.flow).RetryAt.IsZero())
	p.bypassed(10 * time.Second)
	now := n.status(p.flow)
	require.NotEqual(t, [2]any{was.Local, was.Remote}, [2]any{now.Local, now.Remote})
	require.Equal(t, 2, p.exchange())
	p.wire.Drop(nil)
	p.leave()
}

// A flow that is broken between all ports is tried less and less often.
func TestBrokenFlowBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newFlowPair(t, bypass.UDP)
		p.wire.Drop(func(w bypasstest.Packet) bool {
			return string(w.Payload) == "marker" && w.SrcMAC == p.a.uplink
		})
		ups, lost := 0, 0
		was := bypass.Bypassed
		for i := range 60 * 20 * 10 { // 10 minutes
			p.sends(p.a)
			<-time.After(50 * time.Millisecond)
			synctest.Wait()
			if i%20 == 0 {
				p.a.member.Request(p.flow, bypass.Verdict{Bypass: true})
			}
			s := p.a.status(p.flow).State
			if s == bypass.Bypassed {
				lost++
				if was != bypass.Bypassed {
					ups++
				}
			}
			was = s
		}
		require.GreaterOrEqual(t, ups, 3, "it is tried again")
		require.LessOrEqual(t, ups, 7, "but ever less often")
		require.Less(t, lost, 60*20*10/10)
		p.leave()
	})
}

// Nothing of this is a break.
func TestHealthyFlowsStay(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(p *pair)
		every time.Duration
		both  bool
	}{
		"idle":                 {every: 15 * time.Second, both: true},
		"one-way":              {every: 20 * time.Millisecond},
		"one-way, seldom":      {every: 1700 * time.Millisecond},
		"one-way, slow":        {every: 9 * time.Second},
		"both ways":            {every: 30 * time.Millisecond, both: true},
		"10 % loss":            {every: 10 * time.Millisecond, spoil: func(p *pair) { lossy(p, 10) }},
		"50 % loss":            {every: 10 * time.Millisecond, spoil: func(p *pair) { lossy(p, 50) }},
		"50 % loss, seldom":    {every: 400 * time.Millisecond, spoil: func(p *pair) { lossy(p, 50) }},
		"lag here":             {every: 20 * time.Millisecond, spoil: func(p *pair) { p.b.sw.Lag(1400 * time.Millisecond) }},
		"lag there":            {every: 20 * time.Millisecond, spoil: func(p *pair) { p.a.sw.Lag(1400 * time.Millisecond) }},
		"lag, seldom":          {every: 2300 * time.Millisecond, spoil: func(p *pair) { p.a.sw.Lag(1300 * time.Millisecond); p.b.sw.Lag(1400 * time.Millisecond) }},
		"lag and loss":         {every: 7 * time.Millisecond, spoil: func(p *pair) { lossy(p, 30); p.a.sw.Lag(1400 * time.Millisecond); p.b.sw.Lag(900 * time.Millisecond) }},
		"stale caches":         {every: 20 * time.Millisecond, spoil: func(p *pair) { p.a.sw.Stale(300 * time.Millisecond); p.b.sw.Stale(300 * time.Millisecond) }},
		"bursts and lag there": {every: -1, spoil: func(p *pair) { p.a.sw.Lag(1400 * time.Millisecond) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newFlowPair(t, bypass.UDP)
				if c.spoil != nil {
					c.spoil(p)
				}
				left, last := 0, time.Now()
				p.a.changed = func(s bypass.Status) {
					if s.Reason == bypass.ReasonFlowBroken {
						left++
					}
				}
				for start, i := time.Now(), 0; time.Since(start) < 3*time.Minute; i++ {
					every := c.every
					if every < 0 { // 50 packets at once, then a pause, of ever another length
						if every = 0; i%50 == 0 {
							every = time.Duration(500+37*(i/50)%4000) * time.Millisecond
						}
					}
					p.sends(p.a)
					if c.both || i == 0 || time.Since(last) > 50*time.Second { // B's idle time is a minute
						p.sends(p.b)
						last = time.Now()
					}
					<-time.After(every)
				}
				require.Zero(t, left)
				require.Equal(t, bypass.Bypassed, p.a.status(p.flow).State)
				p.wire.Drop(nil)
				p.leave()
			})
		})
	}
}

// lossy loses so many of a hundred packets of workloads; probes all pass.
func lossy(p *pair, percent int) {
	chance := rand.New(rand.NewPCG(1, uint64(percent)))
	p.wire.Drop(func(w bypasstest.Packet) bool {
		return string(w.Payload) == "marker" && chance.IntN(100) < percent
	})
}

// A message about counters that was long under way does no harm: it is held up for
// seconds, while the flow's packets come and stop coming.
func TestLateCountersDoNoHarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newFlowPair(t, bypass.UDP)
		p.b.mu.Lock()
		p.b.linked = false // what A says waits
		p.b.mu.Unlock()
		release := func() {
			p.b.mu.Lock()
			defer p.b.mu.Unlock()
			for _, m := range p.b.inbox {
				p.b.member.Receive(p.a.id, m)
			}
			p.b.inbox = nil
		}
		for i := range 60 * 20 {
			if (i/70)%2 == 0 {
				p.sends(p.a)
			}
			<-time.After(50 * time.Millisecond)
			if i%83 == 0 {
				release()
			}
			require.Equal(t, bypass.Bypassed, p.a.status(p.flow).State)
		}
		release()
		p.b.mu.Lock()
		p.b.linked = true
		p.b.mu.Unlock()
		p.leave()
	})
}

// slowRules is a switch that takes long to list its rules.
type slowRules struct {
	bypass.Datapath
	takes time.Duration
	calls *atomic.Int32
}

func (d slowRules) Rules(ctx context.Context) ([]bypass.RuleStat, error) {
	d.calls.Add(1)
	<-time.After(d.takes)
	return d.Datapath.Rules(ctx)
}

// Listings take a fiftieth of the time at most, whatever they cost, hold nothing else
// up, and end with the flows. There is one for all flows and peers.
func TestListingsTakeLittle(t *testing.T) {
	for takes, most := range map[time.Duration]int32{0: 121, 100 * time.Millisecond: 13, 300 * time.Millisecond: 5} {
		synctest.Test(t, func(t *testing.T) {
			var calls atomic.Int32
			p := newPair(t, func(i int, c *bypass.HostConfig) {
				if open := c.Datapath; i == 0 {
					c.Datapath = func(ctx context.Context) (bypass.Datapath, error) {
						d, err := open(ctx)
						return slowRules{d, takes, &calls}, err
					}
				}
			})
			p.bypassed(2 * time.Second)
			pass(5 * time.Second)
			before := calls.Load()
			for range 6 {
				require.Equal(t, 2, p.exchange())
				pass(10 * time.Second)
			}
			require.LessOrEqual(t, calls.Load()-before, most, "%v each", takes)
			require.GreaterOrEqual(t, calls.Load()-before, most-3, "%v each", takes)
			p.a.member.SetPolicy(bypass.Never)
			p.onOverlay(5 * time.Second)
			pass(time.Minute)
			before = calls.Load()
			pass(time.Minute)
			require.Equal(t, before, calls.Load(), "no flows, no listings")
			p.leave()
		})
	}
}

// Of many flows, which take many messages to tell of, the one that is broken leaves, and
// no other.
func TestOneOfManyIsBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		pass(2 * time.Second)
		const n = 1000
		flows := make([]bypass.Flow, n)
		for i := range flows {
			flows[i] = bypass.Flow{Proto: bypass.UDP, Dst: p.flow.Dst, Src: netip.AddrPortFrom(p.flow.Src.Addr(), uint16(1000+i))}
			p.a.member.Request(flows[i], bypass.Verdict{Bypass: true})
		}
		pass(time.Second)
		s := p.a.status(flows[n-1])
		require.Equal(t, bypass.Bypassed, s.State)
		p.wire.Drop(func(w bypasstest.Packet) bool { return w.Flow.Src == s.Local && w.Flow.Dst == s.Remote })
		until(t, 8*time.Second, "it leaves", func() bool {
			for _, f := range flows {
				p.a.sw.Send(ofport, bypasstest.Packet{SrcMAC: p.a.mac, DstMAC: p.b.mac, Flow: f}.Frame())
			}
			<-time.After(200 * time.Millisecond)
			return p.a.status(flows[n-1]).Reason == bypass.ReasonFlowBroken
		})
		for _, f := range flows[:n-1] {
			require.Equal(t, bypass.Bypassed, p.b.status(f).State)
		}
		p.wire.Drop(nil)
		p.leave()
	})
}
