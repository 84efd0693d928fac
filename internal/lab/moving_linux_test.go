package lab

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/nodecfg"
)

// transfer is one iperf3 run between the first containers: one TCP connection
// whose client port is known.
type transfer struct {
	*system
	client         netip.AddrPort
	server         uint16
	from, to       *child
	sender, reader strings.Builder // what they print; valid when they ended
}

const (
	transferTime = 12 * time.Second
	enough       = 4 << 20 // bytes that show where a transfer goes
)

func (s *system) startTransfer() *transfer { return s.startTransferFor(transferTime) }

func (s *system) startTransferFor(d time.Duration) *transfer {
	s.t.Helper()
	a, b := s.guest(1, 1), s.guest(2, 1)
	tr := &transfer{system: s, client: netip.AddrPortFrom(a.Addr, 45204), server: 5204}
	port := strconv.Itoa(int(tr.server))
	var err error
	tr.to, err = s.spawn(b.Namespace, nil, &tr.reader, &tr.reader, "iperf3", "-s", "-1", "-J", "-p", port)
	require.NoError(s.t, err)
	require.NoError(s.t, tr.to.waitListening(s.t.Context(), tr.server))
	tr.from, err = s.spawn(a.Namespace, nil, &tr.sender, &tr.sender, "iperf3", "-J", "-c", b.Addr.String(), "-p", port,
		"--cport", strconv.Itoa(int(tr.client.Port())), "-i", "1", "-t", strconv.Itoa(int(d.Seconds())))
	require.NoError(s.t, err)
	return tr
}

// look reads all counters, for the transfer's data connection alone.
func (tr *transfer) look() counts {
	tr.t.Helper()
	p := tr.pair(Kind{}, Bypass)
	p.from, p.port = tr.client.Port(), tr.server
	c, err := tr.countRules(tr.t.Context(), p.isOutbound, p.isInbound)
	require.NoError(tr.t, err)
	return c
}

// took waits until the nodes say that the transfer takes the mode's way, and the
// counters of both switches and both TAPs say so too.
func (tr *transfer) took(m Mode) {
	tr.t.Helper()
	state := map[Mode]string{Overlay: "overlay", Bypass: "bypassed"}[m]
	tr.awaitState(5*time.Second, tr.client, state)
	before := tr.look()
	tr.await(5*time.Second, "the counters say "+m.String(), func() bool {
		after := tr.look()
		way, other := after.moved(before)
		if m == Overlay {
			way, other = other, way
		}
		if way < enough {
			return false
		}
		if float64(other) < least*float64(way) {
			return true
		}
		before = after // the last packets of the other way were in between
		return false
	})
	select {
	case <-tr.from.exited:
		require.FailNow(tr.t, "the transfer ended too early", tr.sender.String())
	default:
	}
}

// moved is what went by the rules and what through the TAPs: the lesser of both
// ends where a way must have grown at both.
func (c counts) moved(before counts) (rules, taps uint64) {
	rules = min(grown(before.sender, c.sender), grown(before.receiver, c.receiver))
	taps = min(c.tapSender.bytes-before.tapSender.bytes, c.tapReceiver.bytes-before.tapReceiver.bytes)
	return rules, taps
}

// requireNoSecondAtZero reads iperf3's own report of one end.
func (tr *transfer) requireNoSecondAtZero(end, text string) {
	tr.t.Helper()
	var r struct {
		Error     string
		Intervals []struct {
			Sum struct {
				Seconds float64
				Bytes   uint64
				Omitted bool
			}
		}
	}
	require.NoError(tr.t, json.Unmarshal([]byte(text), &r), text)
	require.Empty(tr.t, r.Error, end)
	var seconds []uint64
	for _, i := range r.Intervals {
		if i.Sum.Seconds > 0.5 { // a receiver's last interval may be the rest of one
			seconds = append(seconds, i.Sum.Bytes)
		}
	}
	tr.t.Logf("%s, bytes of each second: %v", end, seconds)
	require.GreaterOrEqual(tr.t, len(seconds), int(transferTime.Seconds())-1)
	for i, n := range seconds {
		require.NotZero(tr.t, n, "%s: second %d of %v", end, i+1, seconds)
	}
}

// One TCP connection moves to the bypass and back, as each end allows it; it does
// not stop, and neither does traffic of the hosts.
func TestIntegrationMovingTransfer(t *testing.T) {
	s := newSystem(t, "iperf3")
	s.startNodes()
	s.policies(nodecfg.Overlay)
	host := s.startEchoes()
	tr := s.startTransfer()
	start := time.Now()
	tr.took(Overlay)
	for _, end := range []int{1, 2} {
		s.policies(nodecfg.Bypass)
		tr.took(Bypass)
		t.Logf("bypassed after %v", time.Since(start))
		s.policy(end, nodecfg.Overlay)
		tr.took(Overlay)
		t.Logf("host %d withdrew; on the overlay after %v", end, time.Since(start))
	}
	ended := time.After(transferTime + 5*time.Second)
	for _, c := range []*child{tr.from, tr.to} {
		select {
		case <-c.exited:
		case <-ended:
			require.FailNow(t, "iperf3 does not end")
		}
	}
	require.NoError(t, tr.from.err, tr.sender.String())
	require.NoError(t, tr.to.err, tr.reader.String())
	tr.requireNoSecondAtZero("sender", tr.sender.String())
	tr.requireNoSecondAtZero("receiver", tr.reader.String())
	// At this speed the switches' queues overflow, without vias too, and a datagram
	// may be lost anywhere: what must not be is a gap. TestIntegrationCapture, with
	// little traffic, counts every one.
	gap, sent := host.end(t.Context()).longestGap()
	require.Greater(t, sent, uint64(100))
	require.Less(t, gap, 25, "datagrams of the hosts lost in a row (half a second), of %d", sent)
	t.Logf("at most %d of %d datagrams from host to host lost in a row", gap, sent)
}
