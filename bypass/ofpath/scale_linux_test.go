//go:build !race

package ofpath_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/ofctl"
)

// Times of the test. Its lease is long enough for a busy machine, and short enough to
// see it renewed; limit bounds each step.
const (
	scaleFlows = 10_000
	scaleLease = 12 * time.Second
	scaleLimit = time.Minute
)

// Tables of the default layout.
const (
	inboundTable  = 10
	outboundTable = 20
	gateTable     = 21
	tetherTable   = 22
)

// TestIntegrationScale: 10,000 bypassed flows between two real switches. (The race
// detector makes all of it so slow that the two ends miss each other's probes.) What a
// lease costs does not depend on how many flows there are, nor does closing the gates.
func TestIntegrationScale(t *testing.T) {
	itest.NotOn(t, itest.System, "in user-mode-linux, on one slow core, the ends miss each other's probes beside 10,000 flow-mods")
	a, b := newHosts(t, scaleLease)
	ends := []*hostEnd{a, b}
	var closing [2]int
	a.bypass(10)
	b.await(bypass.Bypassed, 10, scaleLimit)
	few := renewals(ends)
	start := time.Now()
	a.bypass(scaleFlows)
	b.await(bypass.Bypassed, scaleFlows, scaleLimit)
	t.Logf("%d flows up in %v", scaleFlows, time.Since(start))
	for _, e := range ends {
		require.Equal(t, scaleFlows, e.rules(inboundTable))
		require.Equal(t, scaleFlows, e.rules(outboundTable))
		require.Equal(t, 1, e.rules(gateTable))
		require.Equal(t, 1, e.rules(tetherTable))
	}
	a.crosses(0, scaleFlows/2, scaleFlows-1)
	many := renewals(ends)
	require.Equal(t, few, many, "two renewals beside 10 and beside 10,000 flows")

	for _, e := range ends {
		e.count.record(true)
	}
	a.under.DropRoute(b.addr)
	for i, e := range ends {
		closing[i] = e.closed()
	}
	t.Logf("modifications: two renewals %v, until the gates were closed %v", many, closing)
	for _, n := range closing {
		require.LessOrEqual(t, n, 32) // a renewal may have come before
	}
	for _, e := range ends {
		e.await(bypass.OnOverlay, scaleFlows, scaleLimit)
		require.Zero(t, e.rules(inboundTable))
		require.Zero(t, e.rules(outboundTable))
	}
	for _, e := range ends {
		e.leave()
		e.empty()
	}
}

// bypass has the first n flows bypassed. It asks as a Network does: at once, and
// again each second for those that are not.
func (e *hostEnd) bypass(n int) {
	e.tb.Helper()
	for late := time.Now().Add(scaleLimit); ; {
		missing := 0
		for i := range n {
			if s, _ := e.member.Status(e.flow(i)); s.State != bypass.Bypassed {
				missing++
				e.member.Request(e.flow(i), bypass.Verdict{Bypass: true, Idle: time.Hour})
			}
		}
		if missing == 0 {
			return
		}
		require.True(e.tb, time.Now().Before(late), "%d of %d flows are not bypassed", missing, n)
		for again := time.After(time.Second); again != nil; {
			select {
			case <-again:
				again = nil
			case <-e.changed:
				e.mu.Lock()
				if e.n[bypass.Bypassed] == n {
					again = nil
				}
				e.mu.Unlock()
			}
		}
	}
}

// renewals is how many modifications two renewals of the peer's lease and of the slow
// half cost each end.
func renewals(ends []*hostEnd) (mods [2]int) {
	for _, e := range ends {
		e.count.record(true)
		defer e.count.record(false)
	}
	for i, e := range ends {
		require.Eventually(e.tb, func() bool { return len(e.count.recorded()) >= 4 }, 2*scaleLease, 20*time.Millisecond, "not renewed")
		for _, call := range e.count.recorded()[:4] {
			mods[i] += len(call)
		}
	}
	return mods
}

// closed is how many modifications there were until the outbound gate was closed.
func (e *hostEnd) closed() (mods int) {
	e.tb.Helper()
	until := func() (n int, closed bool) {
		for _, call := range e.count.recorded() {
			n += len(call)
			for _, m := range call {
				if f, ok := m.(ofctl.FlowMod); ok && f.Flow.Table == gateTable && f.Flow.Priority > 0 && f.Command != ofctl.Add {
					return n, true
				}
			}
		}
		return n, false
	}
	require.Eventually(e.tb, func() bool { _, ok := until(); return ok }, scaleLimit, time.Millisecond, "the gate is open")
	mods, _ = until()
	return mods
}

// crosses sends a segment of each of these flows, and sees them arrive as they were
// sent: through both switches, for there is no other way.
func (e *hostEnd) crosses(flows ...int) {
	from, to := packetSocket(e.tb, e.ovs.Netns, "xw0"), packetSocket(e.tb, e.peer.ovs.Netns, "xw0")
	for _, i := range flows {
		sent := bypasstest.Packet{SrcMAC: e.mac, DstMAC: e.peer.mac, Flow: e.flow(i), Flags: bypasstest.FlagACK, Payload: []byte("scale")}
		_, err := unix.Write(from, sent.Frame())
		require.NoError(e.tb, err)
		got := receiveFlow(e.tb, to, e.peer.ip)
		require.Equal(e.tb, sent.Flow, got.Flow)
		require.Equal(e.tb, sent.Payload, got.Payload)
		require.Equal(e.tb, sent.SrcMAC, got.SrcMAC)
	}
}

// receiveFlow is the next packet to dst.
func receiveFlow(tb testing.TB, fd int, dst netip.Addr) bypasstest.Packet {
	tb.Helper()
	buf := make([]byte, 4096)
	for late := time.Now().Add(5 * time.Second); time.Now().Before(late); {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 100); err != nil || n == 0 {
			continue
		}
		n, err := unix.Read(fd, buf)
		require.NoError(tb, err)
		if p, ok := bypasstest.Parse(buf[:n]); ok && p.Flow.Dst.Addr() == dst {
			return p
		}
	}
	tb.Fatal("nothing came")
	return bypasstest.Packet{}
}
