package control

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/leaktest"
	"github.com/viasnet/vias/tap"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// line joins two sessions by a path that loses, repeats and reorders.
type line struct {
	tb             testing.TB
	rand           *rand.Rand
	loss, dup, mix float64
	now            time.Time
	ends           [2]*Session
	flying         []flight
	got            [2][]Message
	errs           [2]error
	datagrams      int
}

type flight struct {
	to   int
	at   time.Time
	data []byte
}

func newLine(tb testing.TB, change func(end int, c *Config)) *line {
	l := &line{tb: tb, rand: rand.New(rand.NewPCG(1, 2)), now: time.Unix(1000, 0)}
	for i := range l.ends {
		c := Config{ID: uint64(100 + i), Network: "n", MTU: 1500, LinkMTU: 1200}
		if change != nil {
			change(i, &c)
		}
		var err error
		l.ends[i], err = New(c, l.now)
		require.NoError(tb, err)
	}
	return l
}

const oneWay = 2 * time.Millisecond

// pump sends what the sessions have to send.
func (l *line) pump() {
	b := tap.NewBatch(4, 8192)
	for i, s := range l.ends {
		for b.Reset(); ; b.Reset() {
			s.Output(b, l.now)
			if b.Len() == 0 {
				break
			}
			for k := range b.Len() {
				l.send(1-i, b.Frame(k))
			}
		}
	}
}

func (l *line) send(to int, d []byte) {
	l.datagrams++
	require.LessOrEqual(l.tb, len(d), maxSegment)
	for copies := 1; copies > 0; copies-- {
		if l.rand.Float64() < l.dup {
			copies++
		}
		at := l.now.Add(oneWay)
		if l.rand.Float64() < l.mix {
			at = at.Add(rand.N(3 * oneWay))
		}
		if l.rand.Float64() >= l.loss {
			l.flying = append(l.flying, flight{to, at, bytes.Clone(d)})
		}
	}
}

// step moves time to whatever is next; false: nothing is before limit.
func (l *line) step(limit time.Time) bool {
	l.pump()
	next, which := limit, -1
	for i, f := range l.flying {
		if f.at.Before(next) {
			next, which = f.at, i
		}
	}
	for _, s := range l.ends {
		if t := s.Next(); !t.IsZero() && t.Before(next) {
			next, which = t, -1
		}
	}
	if !next.Before(limit) {
		l.now = limit
		return false
	}
	if next.After(l.now) {
		l.now = next
	}
	if which >= 0 {
		f := l.flying[which]
		l.flying = append(l.flying[:which], l.flying[which+1:]...)
		m, err := l.ends[f.to].Input(f.data, l.now)
		l.got[f.to] = append(l.got[f.to], m...)
		l.errs[f.to] = err
	}
	for i, s := range l.ends {
		if err := s.Tick(l.now); err != nil {
			l.errs[i] = err
		}
	}
	return true
}

func (l *line) run(d time.Duration, until func() bool) {
	limit := l.now.Add(d)
	for !until() && l.step(limit) {
	}
}

func (l *line) established() bool { return l.ends[0].Established() && l.ends[1].Established() }

func TestHello(t *testing.T) {
	l := newLine(t, func(end int, c *Config) {
		c.MTU = 1400 + end
		c.Capabilities = []string{"x"}
	})
	l.run(time.Second, l.established)
	require.True(t, l.established())
	require.Equal(t, Hello{Version: Version, Network: "n", MTU: 1401, Capabilities: []string{"x"}}, l.ends[0].Hello())
	require.LessOrEqual(t, l.now.Sub(time.Unix(1000, 0)), 3*oneWay)
	l.run(time.Minute, func() bool { return false })
	require.LessOrEqual(t, l.datagrams, 8, "silence costs nothing")
	require.Zero(t, l.ends[0].RTT())
	require.NoError(t, l.ends[0].Send(ChannelBypass, []byte("x"), l.now))
	l.run(time.Second, func() bool { return false })
	require.Equal(t, 2*oneWay, l.ends[0].RTT())
}

func TestOtherNetwork(t *testing.T) {
	l := newLine(t, func(end int, c *Config) { c.Network = fmt.Sprint("net", end) })
	l.run(time.Second, func() bool { return l.errs[0] != nil || l.errs[1] != nil })
	var err error
	for _, e := range l.errs {
		if e != nil {
			err = e
		}
	}
	require.ErrorIs(t, err, ErrNetwork)
	require.ErrorContains(t, err, `"net`)
}

func TestOtherVersion(t *testing.T) {
	l := newLine(t, nil)
	hello, err := encodeHello(Hello{Version: Version + 1, Network: "n"})
	require.NoError(t, err)
	_, err = l.ends[0].Input(raw(segment{last: true, from: 7, to: 100, seq: 1, payload: append([]byte{byte(ChannelHello)}, hello...)}), l.now)
	require.ErrorIs(t, err, ErrVersion)
	require.ErrorIs(t, l.ends[0].Send(ChannelBypass, nil, l.now), ErrVersion, "it is final")
}

func raw(s segment) []byte {
	d := make([]byte, headerLen+len(s.payload))
	s.put(d)
	return d
}

func TestNoHello(t *testing.T) {
	l := newLine(t, nil)
	l.loss = 1
	l.run(time.Minute, func() bool { return l.errs[0] != nil })
	require.ErrorIs(t, l.errs[0], ErrStalled)
	require.Equal(t, HelloTimeout, l.now.Sub(time.Unix(1000, 0)))
}

func TestStalled(t *testing.T) {
	l := newLine(t, nil)
	l.run(time.Second, l.established)
	l.run(time.Second, func() bool { return false })
	l.loss = 1
	start := l.now
	require.NoError(t, l.ends[0].Send(ChannelBypass, []byte("x"), l.now))
	l.run(time.Minute, func() bool { return l.errs[0] != nil })
	require.ErrorIs(t, l.errs[0], ErrStalled)
	require.InDelta(t, StallTimeout, l.now.Sub(start), float64(maxRTO))
	require.NoError(t, l.errs[1])
}

// The property: whatever the path does, every message arrives once and in order.
func TestInOrderOnce(t *testing.T) {
	for seed := range uint64(8) {
		l := newLine(t, nil)
		l.rand = rand.New(rand.NewPCG(seed, 9))
		l.loss, l.dup, l.mix = 0.3*l.rand.Float64(), 0.3*l.rand.Float64(), l.rand.Float64()
		var want [2][][]byte
		limit := l.now.Add(5 * time.Minute)
		done := func() bool { return len(l.got[0]) == len(want[1]) && len(l.got[1]) == len(want[0]) }
		for i := 0; i < 60 || !done(); i++ {
			if i < 60 {
				end := l.rand.IntN(2)
				body := make([]byte, l.rand.IntN(200))
				if l.rand.IntN(10) == 0 {
					body = make([]byte, 1+l.rand.IntN(MaxMessage-1))
				}
				for k := range body {
					body[k] = byte(i + k)
				}
				if l.ends[end].Send(ChannelBypass, body, l.now) == nil {
					want[end] = append(want[end], body)
				}
			}
			require.True(t, l.step(limit), "seed %d: stuck with %d/%d and %d/%d", seed, len(l.got[0]), len(want[1]), len(l.got[1]), len(want[0]))
			require.NoError(t, l.errs[0])
			require.NoError(t, l.errs[1])
		}
		for end := range want {
			for i, body := range want[end] {
				require.True(t, bytes.Equal(body, l.got[1-end][i].Body), "seed %d, message %d", seed, i)
				require.Equal(t, ChannelBypass, l.got[1-end][i].Channel)
			}
		}
	}
}

func TestOldSessionIgnored(t *testing.T) {
	old := newLine(t, func(end int, c *Config) { c.ID += 50 })
	var kept [][]byte
	old.run(time.Second, func() bool {
		for _, f := range old.flying {
			kept = append(kept, f.data)
		}
		return false
	})
	require.NotEmpty(t, kept)
	l := newLine(t, nil)
	for _, d := range kept { // they come before the first datagram of the new session
		m, err := l.ends[0].Input(d, l.now)
		require.NoError(t, err)
		require.Empty(t, m)
	}
	require.False(t, l.ends[0].Established(), "an old hello proves nothing")
	l.run(time.Second, l.established)
	require.True(t, l.established())
	for _, d := range kept {
		m, err := l.ends[0].Input(d, l.now)
		require.NoError(t, err)
		require.Empty(t, m)
	}
	require.NoError(t, l.ends[1].Send(ChannelBypass, []byte("new"), l.now))
	l.run(time.Second, func() bool { return len(l.got[0]) > 0 })
	require.Equal(t, []Message{{ChannelBypass, []byte("new")}}, l.got[0])
}

func TestBounds(t *testing.T) {
	l := newLine(t, nil)
	s := l.ends[0]
	require.ErrorIs(t, s.Send(ChannelBypass, make([]byte, MaxMessage), l.now), ErrTooLong)
	sent := 0
	for s.Send(ChannelBypass, make([]byte, 1000), l.now) == nil {
		sent++
	}
	require.InDelta(t, MaxQueue/1001, sent, 1)
	require.ErrorIs(t, s.Send(ChannelBypass, make([]byte, 1000), l.now), ErrQueueFull)
	l.run(time.Minute, func() bool { return len(l.got[1]) == sent })
	require.Len(t, l.got[1], sent)
	l.run(time.Second, func() bool { return s.Queued() == 0 })
	require.Zero(t, s.Queued())

	_, err := New(Config{Network: string(make([]byte, 300))}, l.now)
	require.Error(t, err)
	_, err = New(Config{Capabilities: make([]string, 9)}, l.now)
	require.Error(t, err)
}

func TestProtocolBroken(t *testing.T) {
	ack := func(l *line) segment { return segment{from: 101, to: 100, ack: 50} }
	long := func(l *line) segment {
		for seq := uint64(2); ; seq++ {
			s := segment{from: 101, to: 100, seq: seq, payload: make([]byte, 1000)}
			if seq == 2+MaxMessage/1000 {
				return s
			}
			_, err := l.ends[0].Input(raw(s), l.now)
			require.NoError(l.tb, err)
		}
	}
	again := func(l *line) segment {
		return segment{last: true, from: 101, to: 100, seq: 2, payload: []byte{byte(ChannelHello)}}
	}
	for name, spoil := range map[string]func(*line) segment{"ack of the future": ack, "endless message": long, "second hello": again} {
		t.Run(name, func(t *testing.T) {
			l := newLine(t, nil)
			l.tb = t
			l.run(time.Second, l.established)
			_, err := l.ends[0].Input(raw(spoil(l)), l.now)
			require.ErrorIs(t, err, ErrProtocol)
		})
	}
	l := newLine(t, nil)
	_, err := l.ends[0].Input(raw(segment{last: true, from: 7, to: 100, seq: 1, payload: []byte{byte(ChannelBypass)}}), l.now)
	require.ErrorIs(t, err, ErrProtocol, "no hello first")
}

// With the clock of a bubble, as the core drives it.
func TestLostHelloIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		s, err := New(Config{ID: 1, Network: "n", LinkMTU: 1200}, start)
		require.NoError(t, err)
		b := tap.NewBatch(4, 8192)
		var at []time.Duration
		for len(at) < 4 {
			b.Reset()
			s.Output(b, time.Now())
			if b.Len() > 0 {
				at = append(at, time.Since(start))
			}
			<-time.After(time.Until(s.Next()))
			require.NoError(t, s.Tick(time.Now()))
		}
		require.Equal(t, []time.Duration{0, 200 * time.Millisecond, 600 * time.Millisecond, 1400 * time.Millisecond}, at)
	})
}

func FuzzInput(f *testing.F) {
	hello, _ := encodeHello(Hello{Version: Version, Network: "n"})
	f.Add(raw(segment{last: true, from: 7, seq: 1, payload: append([]byte{0}, hello...)}))
	f.Add(raw(segment{last: true, from: 7, to: 100, seq: 1, payload: append([]byte{0}, hello...)}))
	f.Add(raw(segment{from: 7, to: 100, ack: 1}))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, d []byte) {
		now := time.Unix(1000, 0)
		s, err := New(Config{ID: 100, Network: "n", LinkMTU: 1200}, now)
		require.NoError(t, err)
		b := tap.NewBatch(8, 16384)
		s.Output(b, now)
		for range 2 {
			_, err := s.Input(d, now)
			require.Equal(t, err, s.Err())
			b.Reset()
			s.Output(b, now)
			for i := range b.Len() {
				_, ok := parseSegment(b.Frame(i))
				require.True(t, ok)
			}
		}
		if g, ok := parseSegment(d); ok {
			require.Equal(t, d, raw(g), "read and written again")
		}
	})
}
