package lab

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/nodecfg"
)

// A scan, and what it is compared with.
const (
	scanSYNs   = 100_000
	scanRate   = 8000            // SYNs a second: 12.5 s
	nativeScan = 4 * time.Second // of the same, past the nodes
	scanTime   = 17 * time.Second
	// What another guest's transfer must keep while a guest scans. The switches are in user
	// space and on the same cores as nodes, guests and scan; without the allowance of SYNs
	// (pump.Opens) it keeps a fiftieth or less.
	leastShare = 0.15
	// It never stands still for longer than a withdrawn bypass may make it.
	longestStop = 3 // seconds
)

// quiet ends the captures at guests and hosts: they take CPU, and are for other tests.
func (a *attacked) quiet() {
	for _, m := range []map[string]*capture{a.guests, a.stacks} {
		for _, c := range m {
			c.end()
		}
	}
}

// scanned: a guest opens 100,000 connections in some seconds, while another one's
// transfer is bypassed. Before that the switches forward both guests' packets natively
// for a while, past the nodes and without rewriting: that is what plain Open vSwitch on
// this machine makes of the transfer during the same scan.
func (a *attacked) scanned() {
	t, from := a.t, a.guest(1, 2)
	frames := a.scan(scanSYNs)
	out := a.mouth(from.Namespace, "eth0")
	a.policies(nodecfg.Bypass)
	start := time.Now()
	tr := a.startTransferFor(scanTime)
	a.awaitState(10*time.Second, tr.client, "bypassed")
	a.forwardNatively(true)
	native := time.Now()
	out.say(scanRate, frames[:int(nativeScan.Seconds()*scanRate)]...)
	over := time.Now()
	a.forwardNatively(false)
	before, names := a.usedByAll()
	begun := time.Now()
	out.say(scanRate, frames...)
	ended := time.Now()
	t.Logf("%d SYNs in %v", scanSYNs, ended.Sub(begun))
	for pid, u := range before {
		now := used(t, pid)
		t.Logf("%s: %v", names[pid], now.since(u))
		require.Less(t, (now.rss-u.rss)>>20, 200, names[pid])
	}
	<-tr.from.exited
	<-tr.to.exited
	require.NoError(t, tr.from.err, "the other guest's connection: %s", tr.sender.String())
	seconds := tr.received()
	natively := between(seconds, native.Sub(start), over.Sub(start))
	during := between(seconds, begun.Sub(start), ended.Sub(start))
	t.Logf("the other guest's transfer, Mbit/s of each second: %.0f; of these %.0f natively during a scan, and %.0f during the scan: a share of %.2f",
		seconds, natively, during, mean(during)/mean(natively))
	require.Positive(t, mean(natively))
	require.Greater(t, mean(during), leastShare*mean(natively))
	stop := 0
	for _, mbits := range during {
		if stop++; mbits >= 1 {
			stop = 0
		}
		require.LessOrEqual(t, stop, longestStop, "seconds in which nothing arrived")
	}
	a.afterScan()
}

// scan is n SYNs to closed ports, each of another five-tuple.
func (a *attacked) scan(n int) [][]byte {
	from, to := a.guest(1, 2), a.guest(2, 2)
	frames := make([][]byte, n)
	for i := range frames {
		at := netip.AddrPortFrom(from.Addr, uint16(1024+i%50_000))
		frames[i] = ipv4(to.MAC, from.MAC, 6, 64, at.Addr(), to.Addr, segment(at.Port(), uint16(7000+i/50_000), 0x02))
	}
	return frames
}

// usedByAll is what nodes and switches have used so far, by process.
func (a *attacked) usedByAll() (use map[int]usage, names map[int]string) {
	use, names = map[int]usage{}, map[int]string{}
	for _, h := range a.hosts {
		vswitchd, err := a.ovs[h.Index-1].readPID("ovs-vswitchd")
		require.NoError(a.t, err)
		for pid, name := range map[int]string{a.NodePID(h.Index): "node", vswitchd: "ovs-vswitchd"} {
			use[pid], names[pid] = used(a.t, pid), fmt.Sprint(name, " ", h.Index)
		}
	}
	return use, names
}

// afterScan looks at what the scan left in switches, nodes and logs.
func (a *attacked) afterScan() {
	t := a.t
	for _, h := range a.hosts {
		flows, err := a.ovs[h.Index-1].Ofctl(t.Context(), "dump-aggregate", bridge)
		require.NoError(t, err)
		st, err := a.Node(h.Index).Status(t.Context())
		require.NoError(t, err)
		states := map[string]int{}
		for _, f := range st.Flows {
			states[f.State]++
		}
		require.Less(t, size(t, h.Log()), int64(1<<20), "the node's log")
		t.Logf("host %d: %s; flows: %v; %d frames dropped; %d bytes of log", h.Index, strings.TrimSpace(flows), states, st.Stats.Dropped, size(t, h.Log()))
		if h.Index == 1 {
			// A busy machine's switch loses others before they are here.
			require.Greater(t, st.Stats.Dropped, uint64(scanSYNs/10), "SYNs over the guest's allowance")
		}
		require.Less(t, len(st.Flows), scanSYNs/2, "flows")
		require.Less(t, states["bypassed"], scanSYNs/20, "bypasses of a scan")
	}
}

// forwardNatively has the switches forward what guests of one number say to each other
// as on one wire, by flows of the lab's own above all others; or no longer.
func (a *attacked) forwardNatively(on bool) {
	t := a.t
	for i, h := range a.hosts[:2] {
		if !on {
			_, err := a.ovs[i].Ofctl(t.Context(), "del-flows", bridge, fmt.Sprintf("cookie=%#x/-1", uint64(labCookie)))
			require.NoError(t, err)
			continue
		}
		for k, local := range h.Containers {
			remote := a.hosts[1-i].Containers[k]
			for _, f := range []string{
				fmt.Sprintf("in_port=%d,dl_dst=%s,actions=output:%d", local.Ofport, remote.MAC, ofportUplink),
				fmt.Sprintf("in_port=%d,dl_dst=%s,actions=output:%d", ofportUplink, local.MAC, local.Ofport),
			} {
				_, err := a.ovs[i].Ofctl(t.Context(), "add-flow", bridge, fmt.Sprintf("cookie=%#x,table=0,priority=60000,%s", uint64(labCookie), f))
				require.NoError(t, err)
			}
		}
	}
}

// received is what the transfer's receiver got, in Mbit/s of each second.
func (tr *transfer) received() []float64 {
	var r struct {
		Intervals []struct {
			Sum struct{ Bits_per_second float64 }
		}
	}
	require.NoError(tr.t, json.Unmarshal([]byte(tr.reader.String()), &r))
	var mbits []float64
	for _, i := range r.Intervals {
		mbits = append(mbits, i.Sum.Bits_per_second/1e6)
	}
	return mbits
}

// between picks the seconds that are wholly between two times, both since the start.
func between(seconds []float64, from, to time.Duration) []float64 {
	first, end := int(math.Ceil(from.Seconds())), min(int(to.Seconds()), len(seconds))
	return seconds[min(first, end):end]
}

func mean(of []float64) float64 {
	sum := 0.0
	for _, x := range of {
		sum += x
	}
	return sum / max(float64(len(of)), 1)
}
