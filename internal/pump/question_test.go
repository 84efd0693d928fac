package pump

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/seg"
	"github.com/viasnet/vias/tap"
)

func request(target netip.Addr) []byte {
	f := make([]byte, 42)
	copy(f, tap.Broadcast[:])
	copy(f[6:], macHere[:])
	copy(f[12:], []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1})
	copy(f[22:], macHere[:])
	copy(f[28:], ipHere.AsSlice())
	copy(f[38:], target.AsSlice())
	return f
}

func soliciting(target netip.Addr) []byte {
	f := make([]byte, 14+40+24)
	copy(f, []byte{0x33, 0x33, 0xff, 0, 0, 1})
	copy(f[6:], macHere[:])
	copy(f[12:], []byte{0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255, 0xfd})
	f[37] = 9 // fd00::9
	copy(f[38:], []byte{0xff, 2})
	f[54] = 135
	copy(f[62:], target.AsSlice())
	sum(f)
	return f
}

// sum puts the ICMPv6 checksum right.
func sum(f []byte) {
	f[56], f[57] = 0, 0
	binary.BigEndian.PutUint16(f[56:], seg.Checksum(f[54:], seg.PseudoHeader(f[22:38], f[38:54], 58, len(f)-54)))
}

func TestParseQuestion(t *testing.T) {
	six := netip.MustParseAddr("fd00::2")
	with := func(f []byte, change func([]byte)) []byte { change(f); return f }
	for name, c := range map[string]struct {
		frame []byte
		ok    bool
	}{
		"ARP":                        {request(ipThere), true},
		"ARP reply":                  {with(request(ipThere), func(f []byte) { f[21] = 2 }), false},
		"ARP of another hardware":    {with(request(ipThere), func(f []byte) { f[15] = 6 }), false},
		"ARP for nobody":             {request(netip.IPv4Unspecified()), false},
		"ARP for all":                {request(netip.AddrFrom4([4]byte{255, 255, 255, 255})), false},
		"ARP for a group":            {request(netip.MustParseAddr("224.0.0.1")), false},
		"ARP cut":                    {request(ipThere)[:41], false},
		"solicitation":               {soliciting(six), true},
		"solicitation from afar":     {with(soliciting(six), func(f []byte) { f[21] = 254; sum(f) }), false},
		"solicitation, bad checksum": {with(soliciting(six), func(f []byte) { f[56]++ }), false},
		"solicitation, bad code":     {with(soliciting(six), func(f []byte) { f[55] = 1; sum(f) }), false},
		"solicitation, long":         {with(soliciting(six), func(f []byte) { f[19] = 25 }), false},
		"solicitation, short":        {with(soliciting(six), func(f []byte) { f[19] = 23 }), false},
		"solicitation of a group":    {soliciting(netip.MustParseAddr("ff02::1")), false},
		"advertisement":              {with(soliciting(six), func(f []byte) { f[54] = 136; sum(f) }), false},
		"something else":             {with(request(ipThere), func(f []byte) { f[12] = 0x88 }), false},
		"header only":                {request(ipThere)[:14], false},
	} {
		q, ok := ParseQuestion(c.frame)
		require.Equal(t, c.ok, ok, name)
		if ok {
			require.Equal(t, macHere, q.Asker)
		}
		for range 2 {
			c.frame = append(c.frame[:12:12], append([]byte{0x81, 0, 0, 5}, c.frame[12:]...)...)
		}
		_, ok = ParseQuestion(c.frame)
		require.Equal(t, c.ok, ok, "%s, in two tags", name)
	}
	q, _ := ParseQuestion(request(ipThere))
	require.Equal(t, Question{Target: ipThere, From: ipHere, Asker: macHere}, q)
	q, _ = ParseQuestion(soliciting(six))
	require.Equal(t, Question{Target: six, From: netip.MustParseAddr("fd00::9"), Asker: macHere}, q)
}

// FuzzQuestion: whatever comes, an answer is a frame to the asker from the owner that a source check
// passes, and it is no question.
func FuzzQuestion(f *testing.F) {
	f.Add(request(ipThere))
	f.Add(soliciting(netip.MustParseAddr("fd00::2")))
	f.Add(append(request(ipThere)[:12:12], append([]byte{0x81, 0, 0, 5}, request(ipThere)[12:]...)...))
	b := tap.NewBatch(1, MaxAnswer)
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < tap.HeaderLen {
			return
		}
		q, ok := ParseQuestion(frame)
		if !ok {
			return
		}
		require.True(t, unicast(q.Target))
		q.Answer(b, macThere)
		require.Equal(t, 1, b.Len())
		a := b.Frame(0)
		require.GreaterOrEqual(t, len(a), minFrame)
		require.Equal(t, macThere, tap.MAC(a[6:12]))
		require.True(t, tap.MAC(a) == q.Asker || a[0] == 0x33 && q.From.IsUnspecified())
		_, ok = ParseQuestion(a)
		require.False(t, ok)
	})
}

// asked is a Finder that notes what it is asked.
type asked struct {
	waits     int
	questions []Question
}

func (a *asked) Wait([]byte, tap.Offload, tap.MAC, tap.MAC) { a.waits++ }
func (a *asked) Ask(q Question)                             { a.questions = append(a.questions, q) }

// TestUnknown: what a Finder takes, what is flooded, and what a release does with what still
// cannot go.
func TestUnknown(t *testing.T) {
	w := &wire{peer: peerID, mtu: 1400}
	port := NewPort(w)
	s := shared(t, port)
	f := &asked{}
	o := NewOut(OutConfig{Shared: s, Device: w, Writer: NewWriter(w), Finder: f})
	send := func(do func(*tap.Batch), frame []byte) {
		b := tap.NewBatch(1, 2048)
		b.Append(frame, tap.Offload{})
		do(b)
	}
	nowhere := tcp(macHere, tap.MAC{2, 9}, ipHere, netip.MustParseAddr("10.0.0.9"), 0, 10)
	send(o.Batch, nowhere)
	require.Equal(t, 1, f.waits)
	send(o.Release, nowhere)
	require.Equal(t, 1, f.waits, "it waits once")
	require.EqualValues(t, 1, s.Counters.Dropped(OutUnresolved))
	require.EqualValues(t, 1, s.Counters.OutFrames.Load())
	send(o.Release, tcp(macHere, macThere, ipHere, ipThere, 0, 10))
	require.Equal(t, 1, w.sent)
	require.EqualValues(t, 1, port.Unicast())

	send(o.Batch, request(netip.MustParseAddr("10.0.0.9")))
	require.Len(t, f.questions, 1)
	send(o.Batch, request(ipThere))
	require.EqualValues(t, 1, s.Counters.Answered.Load())
	require.Equal(t, 1, w.delivered)
	send(o.Batch, request(ipHere))
	require.Equal(t, 2, w.sent, "it announces itself")
	require.EqualValues(t, 1, port.Unicast())
	linkLocal := soliciting(netip.MustParseAddr("fe80::9"))
	copy(linkLocal[22:], netip.MustParseAddr("fe80::1").AsSlice())
	sum(linkLocal)
	send(o.Batch, linkLocal)
	require.Equal(t, 3, w.sent, "nobody lists those")
	require.Len(t, f.questions, 1)

	s.Ports.Remove(port)
	send(o.Batch, tcp(macHere, macThere, ipHere, ipThere, 0, 10))
	require.Equal(t, 2, f.waits, "its peer has no link")
	send(o.Release, tcp(macHere, macThere, ipHere, ipThere, 0, 10))
	require.EqualValues(t, 1, s.Counters.Dropped(OutNoLink))
	for range 3 * GroupRate {
		send(o.Batch, tcp(macHere, tap.Broadcast, ipHere, ipThere, 0, 10))
	}
	require.InDelta(t, GroupRate, s.Counters.Dropped(OutBroadcast), 10)
}

func TestUnknownAllocatesNothing(t *testing.T) {
	w := &wire{peer: peerID, mtu: 1400}
	s := shared(t, NewPort(w))
	o := NewOut(OutConfig{Shared: s, Device: w, Writer: NewWriter(w), Finder: &asked{}})
	b := tap.NewBatch(1, 2048)
	frame := tcp(macHere, macThere, ipHere, ipThere, 0, 1000)
	question := request(ipThere)
	for _, f := range [][]byte{frame, question} {
		require.Zero(t, testing.AllocsPerRun(100, func() {
			b.Reset()
			b.Append(f, tap.Offload{})
			o.Batch(b)
		}))
	}
}
