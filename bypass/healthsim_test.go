package bypass

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// counterSim is a counter of packets that shows them late: it is collected in rounds of
// uneven length, none longer than lag.
type counterSim struct {
	chance     *rand.Rand
	lag        time.Duration
	next       moment
	real, seen uint64
}

func (c *counterSim) at(now moment) uint64 {
	if !now.Before(c.next) {
		c.seen = c.real
		c.next = now.Add(c.lag)
		if c.chance.IntN(3) == 0 {
			c.next = now.Add(time.Duration(c.chance.Int64N(int64(c.lag))))
		}
	}
	return c.seen
}

// reportSim is a Counters message under way.
type reportSim struct {
	arrives  moment
	seq, ack uint64
	sent     uint64
}

// simulate runs one flow for a minute between a sender and a receiver whose counters lag
// by up to lag and whose messages take up to delay. From breaks on no packet arrives. It
// tells when the flow was found broken.
func simulate(seed uint64, lag, delay time.Duration, loss int, breaks time.Duration) (time.Duration, bool) {
	const step, listing = 25 * time.Millisecond, 500 * time.Millisecond
	chance := rand.New(rand.NewPCG(seed, 1))
	out, in := &counterSim{chance: chance, lag: lag}, &counterSim{chance: chance, lag: lag}
	start := moment(1)
	h := newHealth()
	var toReceiver, toSender []reportSim
	var outSeq, inSeq, heardBySender, heardByReceiver uint64
	ended := map[uint64]moment{}
	send := func(list []reportSim, now moment, r reportSim) []reportSim {
		r.arrives = now.Add(time.Duration(chance.Int64N(int64(delay))))
		if n := len(list); n > 0 && r.arrives.Before(list[n-1].arrives) {
			r.arrives = list[n-1].arrives // in order
		}
		return append(list, r)
	}
	burst := 0
	phase := time.Duration(chance.IntN(int(listing/step))) * step
	for now := start; now.Sub(start) < time.Minute; now = now.Add(step) {
		if burst--; burst < -chance.IntN(120) {
			burst = chance.IntN(60)
		}
		if burst > 0 {
			out.real++
			if now.Sub(start) < breaks && chance.IntN(100) >= loss {
				in.real++
			}
		}
		out.at(now)
		in.at(now)
		for len(toReceiver) > 0 && !now.Before(toReceiver[0].arrives) {
			r := toReceiver[0]
			toReceiver = toReceiver[1:]
			heardByReceiver = r.seq
			h.reported(r.sent, ended[r.ack], now, healthLag)
		}
		for len(toSender) > 0 && !now.Before(toSender[0].arrives) {
			heardBySender, toSender = toSender[0].seq, toSender[1:]
		}
		if now.Sub(start)%listing == 0 {
			outSeq++
			toReceiver = send(toReceiver, now, reportSim{seq: outSeq, ack: heardBySender, sent: out.at(now)})
		}
		if now.Sub(start)%listing == phase {
			inSeq++
			ended[inSeq] = now
			if h.listed(in.at(now), now, now) {
				return now.Sub(start), true
			}
			toSender = send(toSender, now, reportSim{seq: inSeq, ack: heardByReceiver})
		}
	}
	return 0, false
}

// However counters lag (up to healthLag) and messages are held up, a flow whose packets
// arrive is not taken for broken.
func TestLagGivesNoFalseAlarm(t *testing.T) {
	for seed := range uint64(4000) {
		delay := []time.Duration{time.Millisecond, 300 * time.Millisecond, 3 * time.Second}[seed%3]
		at, broken := simulate(seed, healthLag, delay, []int{0, 10}[seed%2], time.Hour)
		require.False(t, broken, "seed %d, after %v", seed, at)
	}
}

// A flow of which nothing arrives any more is found broken, also then.
func TestBreakIsFound(t *testing.T) {
	for seed := range uint64(500) {
		breaks := time.Duration(seed%3) * 7 * time.Second
		at, broken := simulate(seed, time.Second, 5*time.Millisecond, 0, breaks)
		require.True(t, broken, "seed %d", seed)
		require.Greater(t, at, breaks)
		require.Less(t, at, breaks+20*time.Second, "the flow has pauses of up to 3 s")
	}
}

// Losses in a row are a break only where they are not to be expected.
func TestEnough(t *testing.T) {
	for loss, want := range map[float64]uint64{0: 2, 0.001: 2, 0.01: 3, 0.1: 6, 0.2: 9, 0.5: 20, 0.9: 132, 1: 1375} {
		require.Equal(t, want, enough(loss), "%v lost", loss)
	}
}

// The two rules that keep lag out, one by one: a base is only what was sent after our
// counter had come to rest, and two moves of the sender's counter are needed.
func TestHealthRules(t *testing.T) {
	at := func(ms int) moment { return moment(100 * time.Second).Add(time.Duration(ms) * time.Millisecond) }
	running := func() *health {
		h := newHealth()
		for i := range 10 {
			h.reported(uint64(1000+i), 0, at(-100), healthLag)
		}
		require.False(t, h.listed(1009, at(-10), at(0)))
		return h
	}
	judged := func(h *health, acks ...int) bool {
		for i, ack := range acks {
			h.reported(uint64(2000+100*i), at(ack), at(3000+i), healthLag)
		}
		return h.listed(1009, at(5000), at(5000))
	}
	require.True(t, judged(running(), 1500, 1500, 1500))
	require.False(t, judged(running(), 1500, 1500), "one move")
	require.False(t, judged(running(), 1499, 1499, 1499, 1499), "packets of before our counter came to rest")
	require.False(t, judged(running(), 1499, 1500, 1500))
	h := running()
	require.False(t, judged(h, 1500, 1500, 1500) && h.listed(1010, at(5001), at(5001)), "one arrived")
	h = running()
	for i := range 3 {
		h.reported(uint64(2000+i), at(1500), at(3000), healthLag)
	}
	require.False(t, h.listed(1009, at(4499), at(4600)), "it may be under way in our own switch")
	require.True(t, h.listed(1009, at(4500), at(4600)))
	require.False(t, judged(newHealth()), "nothing was sent")
	h = newHealth()
	h.reported(5, 0, at(0), healthLag)
	require.False(t, h.listed(0, at(5000), at(5000)), "one move")
	h.reported(6, 0, at(5000), healthLag)
	require.True(t, h.listed(0, at(6500), at(6500)))
	h.reported(3, 0, at(7000), healthLag)
	require.False(t, h.listed(0, at(9000), at(9000)), "the sender's counter began anew")
}

// What our outbound rule counted while its gate may have been closed is not told.
func TestCountsBehindAClosedGate(t *testing.T) {
	h := newHealth()
	require.False(t, h.counts(0, false), "nothing to tell")
	require.True(t, h.counts(5, false))
	h.told = h.out - h.void
	require.False(t, h.counts(9, true))
	require.True(t, h.counts(10, false))
	require.EqualValues(t, 6, h.out-h.void)
	require.True(t, h.counts(2, false), "the counter began anew")
	require.EqualValues(t, 2, h.out-h.void)
}
