package pmtu

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// path is a way to a peer in virtual time: what is longer than takes is lost without a word.
type path struct {
	t       testing.TB
	s       *Search
	now     time.Time
	takes   int
	rtt     time.Duration
	loss    float64 // of everything, in either direction
	random  *rand.Rand
	traffic int // length of the datagrams that are sent all the time; 0 = none
	refuse  int // the interface takes less than that; 0 = no bound

	longest  int // that the peer opened since its last report
	inFlight []inFlight
	sent     int // probes, in bytes
}

type inFlight struct {
	at     time.Time
	report Report
}

const (
	testBase   = 1252
	testMax    = 1472
	testHeader = 28
	testTick   = 125 * time.Millisecond
)

func newPath(t testing.TB, takes int, c Config) *path {
	c.Base, c.Header = testBase, testHeader
	if c.Max == 0 {
		c.Max = testMax
	}
	return &path{t: t, s: New(c), now: time.Unix(1000, 0), takes: takes, rtt: 20 * time.Millisecond, random: rand.New(rand.NewPCG(1, 2))}
}

func (p *path) lost() bool { return p.random.Float64() < p.loss }

// step is one tick of the sender's.
func (p *path) step() {
	end, wake := p.now.Add(testTick), true
	for {
		for i := 0; i < len(p.inFlight); i++ {
			f := p.inFlight[i]
			if f.at.After(p.now) {
				continue
			}
			p.inFlight = append(p.inFlight[:i], p.inFlight[i+1:]...)
			wake = p.s.Report(f.report) || wake
			i--
		}
		sent := min(p.traffic, p.s.Size())
		if sent > 0 && sent <= p.takes && !p.lost() {
			p.longest = max(p.longest, sent)
		}
		if wake {
			p.send(p.s.Step(p.now, sent, max(100*time.Millisecond, 2*p.rtt)))
		}
		if n := p.s.Size(); n < testBase || n > p.s.c.Max {
			p.t.Fatalf("size %d", n)
		}
		if wake = false; !p.now.Before(end) {
			return
		}
		p.now = p.now.Add(5 * time.Millisecond)
	}
}

func (p *path) send(probes []Probe) {
	require.LessOrEqual(p.t, len(probes), 16)
	for _, x := range probes {
		p.sent += max(x.Size, 37)
		switch {
		case p.refuse > 0 && x.Size > p.refuse:
			p.s.Refused(x.Size)
		case x.Size <= p.takes && !p.lost() && !p.lost():
			p.longest = max(p.longest, x.Size)
			p.inFlight = append(p.inFlight, inFlight{p.now.Add(p.rtt), Report{x.Number, p.longest}})
			p.longest = 0
		}
	}
}

// until steps until ok, and says how long that took.
func (p *path) until(limit time.Duration, ok func() bool) time.Duration {
	p.t.Helper()
	start := p.now
	for !ok() {
		p.step()
		if p.now.Sub(start) > limit {
			p.t.Fatalf("after %v: size %d, path %d", limit, p.s.Size(), p.takes)
		}
	}
	return p.now.Sub(start)
}

func (p *path) complete() bool { return p.s.Complete() }

// The longest goes first: a path that takes it costs one probe.
func TestFirstProbe(t *testing.T) {
	p := newPath(t, testMax, Config{})
	p.until(testTick, func() bool { return p.s.Size() == testMax })
	require.True(t, p.s.Complete())
	sent := p.sent
	require.Equal(t, testMax, sent)
	for range 20 {
		p.step()
	}
	require.Equal(t, sent, p.sent, "an idle link says nothing")
}

// Whatever the path takes is found, but for a few bytes, and what is common to the byte.
func TestEverySize(t *testing.T) {
	for takes := testBase; takes <= 4500; takes += 17 {
		p := newPath(t, takes, Config{Max: 4000})
		p.until(12*time.Second, p.complete)
		require.Greater(t, p.s.Size(), min(takes, 4000)-gap)
		require.LessOrEqual(t, p.s.Size(), takes)
		require.Less(t, p.sent, 400<<10)
	}
	for _, mtu := range plateaus[1:10] {
		p := newPath(t, mtu-testHeader, Config{})
		p.until(500*time.Millisecond, func() bool { return p.s.Size() == mtu-testHeader })
		p.until(10*time.Second, p.complete)
		require.Equal(t, mtu-testHeader, p.s.Size())
	}
}

// A hint is probed with the first volley; a wrong one does no harm.
func TestHint(t *testing.T) {
	p := newPath(t, 1391, Config{Hint: func() int { return 1391 }})
	p.until(testTick, func() bool { return p.s.Size() == 1391 })
	for _, lie := range []int{0, 1, 68, testBase, 1300, 1 << 20} {
		p := newPath(t, testMax, Config{Hint: func() int { return lie }})
		p.until(testTick, func() bool { return p.s.Size() == testMax })
	}
}

// A path that takes less from now on is noticed while it is used, well before TCP's second
// retransmission, and what it takes is used at once.
func TestBlackHole(t *testing.T) {
	for _, takes := range []int{testBase, 1300, 1372, 1400, 1450} {
		for _, rtt := range []time.Duration{time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond} {
			p := newPath(t, testMax, Config{})
			p.rtt, p.traffic = rtt, testMax
			p.until(2*time.Second, p.complete)
			for range 50 {
				p.step()
				require.Equal(t, testMax, p.s.Size())
			}
			p.takes = takes
			took := p.until(3*time.Second, func() bool { return p.s.Size() <= takes })
			if rtt < 100*time.Millisecond {
				require.LessOrEqual(t, took, 1250*time.Millisecond)
			}
			require.EqualValues(t, 1, p.s.Falls())
			p.until(12*time.Second, p.complete)
			require.Greater(t, p.s.Size(), takes-gap)
			p.takes = testMax
			p.until(firstRaise+time.Second, func() bool { return p.s.Size() == testMax })
		}
	}
}

// What is seldom long is seen to be lost as well.
func TestBlackHoleOnIdleLink(t *testing.T) {
	p := newPath(t, testMax, Config{})
	p.until(time.Second, p.complete)
	p.takes = 1372
	for range 100 {
		p.step()
	}
	require.Equal(t, testMax, p.s.Size(), "nobody asked")
	p.traffic = testMax
	p.step()
	p.traffic = 0 // lost, and its sender waits
	p.until(1500*time.Millisecond, func() bool { return p.s.Size() <= 1372 })
}

// Loss is no black hole: in an hour of 10 % a few falls, each mended at once.
func TestLoss(t *testing.T) {
	p := newPath(t, testMax, Config{})
	p.traffic, p.loss = testMax, 0.1
	low := 0
	for range 8 * 3600 {
		if p.step(); p.s.Size() < testMax {
			low++
		}
	}
	t.Logf("%d falls, below the size for %v of an hour, %d bytes a second", p.s.Falls(), time.Duration(low)*testTick, p.sent/3600)
	require.Less(t, p.s.Falls(), uint64(30))
	require.Less(t, time.Duration(low)*testTick, time.Minute)
	require.Less(t, p.sent/3600, 2000)
}

// A path over which nothing comes back is left as it is, at a pace.
func TestDeadPath(t *testing.T) {
	p := newPath(t, testMax, Config{})
	p.traffic = testMax
	p.until(time.Second, p.complete)
	p.takes, p.sent = -1, 0
	for range 80 {
		p.step()
	}
	require.Equal(t, testMax, p.s.Size())
	require.Less(t, p.sent, 10*40<<10)
	p.takes = testMax
	p.until(3*time.Second, p.complete)
	require.Equal(t, testMax, p.s.Size())
	require.Zero(t, p.s.Falls())
}

// The raise time doubles up to its bound, and a probe that fails costs little.
func TestRaise(t *testing.T) {
	p := newPath(t, 1372, Config{Raise: time.Minute})
	p.until(5*time.Second, p.complete)
	for want := firstRaise; want < 4*time.Minute; want *= 2 {
		wait := p.until(2*time.Minute, func() bool { return !p.complete() })
		require.InDelta(t, min(want, time.Minute), wait, float64(2*testTick))
		p.until(5*time.Second, p.complete)
		require.Equal(t, 1372, p.s.Size())
	}
	p.takes = testMax
	p.s.Again()
	p.until(testTick, func() bool { return p.s.Size() == testMax })
}

// What the interface does not take is not waited for.
func TestRefused(t *testing.T) {
	p := newPath(t, 1392, Config{})
	p.refuse = 1392
	p.until(2*testTick+50*time.Millisecond, func() bool { return p.s.Size() == 1392 })
	p.until(5*time.Second, p.complete)
	require.Greater(t, p.s.Size(), 1392-gap)
}

// Reports to probes of another path count for nothing.
func TestOtherPath(t *testing.T) {
	a := New(Config{Base: testBase, Max: testMax, First: 7})
	probes := a.Step(time.Unix(1, 0), 0, time.Second)
	b := New(Config{Base: testBase, Max: testMax, First: a.Next()})
	b.Step(time.Unix(1, 0), 0, time.Second)
	require.False(t, b.Report(Report{Number: probes[0].Number, Longest: testMax}))
	require.False(t, b.Report(Report{Number: b.Next(), Longest: testMax}))
	require.Equal(t, testBase, b.Size())
	require.True(t, a.Report(Report{Number: probes[0].Number}))
	require.Equal(t, testMax, a.Size())
}

func TestMessages(t *testing.T) {
	b := make([]byte, 100)
	PutProbe(b, 0x01020304)
	require.Equal(t, []byte{1, 2, 3, 4, 0}, b[:5])
	n, ok := ParseProbe(b)
	require.True(t, ok)
	require.EqualValues(t, 0x01020304, n)
	_, ok = ParseProbe(b[:3])
	require.False(t, ok)
	r := Report{0x0a0b0c0d, 1472}
	require.Equal(t, []byte{9, 0x0a, 0x0b, 0x0c, 0x0d, 0x05, 0xc0}, r.Append([]byte{9}))
	require.Equal(t, []byte{0, 0, 0, 0, 0xff, 0xff}, Report{Longest: 1 << 20}.Append(nil))
	back, ok := ParseReport(r.Append(nil))
	require.True(t, ok)
	require.Equal(t, r, back)
	_, ok = ParseReport(b)
	require.False(t, ok)
}

// FuzzSearch: whatever a peer reports, and whenever, the size stays in its bounds and what is
// sent is bounded.
func FuzzSearch(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 5, 192, 1, 1, 0, 0, 0, 0, 0, 0, 2, 9})
	f.Add([]byte{255, 3, 0, 0, 0, 1, 255, 255, 7})
	f.Fuzz(func(t *testing.T, in []byte) {
		s := New(Config{Base: testBase, Max: testMax, Header: testHeader, First: ^uint32(3)})
		now := time.Unix(1, 0)
		for len(in) > 0 {
			op := in[0]
			in = in[1:]
			now = now.Add(time.Duration(op) * time.Millisecond)
			if r, ok := ParseReport(in[:min(len(in), ReportLen)]); ok && op&1 == 0 {
				in = in[ReportLen:]
				if op&2 == 0 { // of something near what was sent
					r.Number = s.Next() - r.Number%16
				}
				s.Report(r)
				continue
			}
			switch op % 5 {
			case 1:
				s.Refused(testBase + int(op))
			case 3:
				s.Again()
			}
			require.LessOrEqual(t, len(s.Step(now, int(op)*8, 200*time.Millisecond)), 16)
			require.GreaterOrEqual(t, s.Size(), testBase)
			require.LessOrEqual(t, s.Size(), testMax)
			require.Greater(t, s.high, s.Size())
		}
	})
}
