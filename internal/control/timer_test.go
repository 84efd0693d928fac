package control

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/tap"
)

// output is what s has to send.
func output(s *Session, now time.Time) (list [][]byte) {
	b := tap.NewBatch(64, 1<<17)
	for s.Output(b, now); b.Len() > 0; s.Output(b, now) {
		for i := range b.Len() {
			list = append(list, bytes.Clone(b.Frame(i)))
		}
		b.Reset()
	}
	return list
}

func newEstablished(t *testing.T) (a, b *Session, now time.Time) {
	l := newLine(t, nil)
	l.run(time.Second, func() bool { return l.established() && len(l.flying) == 0 })
	require.True(t, l.established())
	l.run(time.Second, func() bool { return false }) // the last acknowledgements
	return l.ends[0], l.ends[1], l.now
}

// TestReordered: the first of four datagrams is overtaken by three. Their
// acknowledgements make a repeat begin; then the last one acknowledges all.
func TestReordered(t *testing.T) {
	a, b, now := newEstablished(t)
	var segments [][]byte
	for range 4 {
		require.NoError(t, a.Send(ChannelBypass, []byte("x"), now))
		segments = append(segments, output(a, now)...)
	}
	require.Len(t, segments, 4)
	var acks [][]byte
	for _, i := range []int{1, 2, 3, 0} {
		_, err := b.Input(segments[i], now)
		require.NoError(t, err)
		acks = append(acks, output(b, now)...)
	}
	for _, d := range acks {
		_, err := a.Input(d, now)
		require.NoError(t, err)
	}
	require.Zero(t, a.Queued())
	require.Empty(t, output(a, now), "all has arrived")
	require.NoError(t, a.Send(ChannelBypass, []byte("more"), now))
	for _, d := range output(a, now) {
		m, err := b.Input(d, now)
		require.NoError(t, err)
		require.Equal(t, []Message{{ChannelBypass, []byte("more")}}, m)
	}
}

// TestLateAcknowledgement: it comes when the timer has fired already, before the
// segment is sent again.
func TestLateAcknowledgement(t *testing.T) {
	a, b, now := newEstablished(t)
	require.NoError(t, a.Send(ChannelBypass, []byte("x"), now))
	var acks [][]byte
	for _, d := range output(a, now) {
		_, err := b.Input(d, now)
		require.NoError(t, err)
		acks = append(acks, output(b, now)...)
	}
	require.NotEmpty(t, acks)
	rtt := a.RTT()
	now = a.Next().Add(time.Millisecond)
	require.NoError(t, a.Tick(now))
	for _, d := range acks {
		_, err := a.Input(d, now)
		require.NoError(t, err)
	}
	require.Equal(t, rtt, a.RTT(), "no sample of what may be sent twice")
	require.Empty(t, output(a, now), "it need not be sent again")
	require.Zero(t, a.Next())
}
