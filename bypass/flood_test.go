package bypass_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
)

// countLog is a log that only counts its bytes.
func countLog(n *atomic.Int64) *slog.Logger { return slog.New(slog.NewTextHandler(counter{n}, nil)) }

type counter struct{ n *atomic.Int64 }

func (c counter) Write(b []byte) (int, error) { c.n.Add(int64(len(b))); return len(b), nil }

// busy is a switch that takes its time for each change, as a real one does.
type busy struct{ bypass.Datapath }

// Of Open vSwitch on a slow machine: 2,000 changes of one rule a second, 20,000 in
// bundles.
const (
	perChange = 500 * time.Microsecond
	perRule   = 50 * time.Microsecond
)

func (d busy) Apply(ctx context.Context, c bypass.Change) error {
	<-time.After(perChange + perRule*time.Duration(len(c.Leases)+len(c.Add)+len(c.Remove)))
	return d.Datapath.Apply(ctx, c)
}

func (d busy) Set(ctx context.Context, b bypass.Base) error {
	<-time.After(perChange)
	return d.Datapath.Set(ctx, b)
}

func slowSwitch(c *bypass.HostConfig) {
	open := c.Datapath
	c.Datapath = func(ctx context.Context) (bypass.Datapath, error) {
		d, err := open(ctx)
		return busy{d}, err
	}
}

// floods are what an authenticated peer can send as fast as it likes: the i-th message.
func floods(tr *trio) map[string]func(i int) bypass.Message {
	ids := make([]uint64, 64)
	for i := range ids {
		ids[i] = uint64(1e6 + i)
	}
	offer := func(i int) bypass.Message {
		m := tr.offer(uint64(2e6+i), uint16(i))
		m.Local = netip.AddrPortFrom(tr.m.addr, uint16(61440+i%3840))
		return m
	}
	challenge := bypass.Message{Kind: bypass.MsgChallenge, Nonce: make([]byte, 32), Addr: tr.m.addr, MTU: 1500, Lease: 3600}
	return map[string]func(i int) bypass.Message{
		"offers": offer,
		"offers, each taken back at once": func(i int) bypass.Message {
			if i%2 == 1 {
				return bypass.Message{Kind: bypass.MsgClose, ID: uint64(2e6 + i - 1)}
			}
			return offer(i)
		},
		"challenges": func(i int) bypass.Message { m := challenge; m.ID = uint64(i); return m },
		"challenges for another's address": func(i int) bypass.Message {
			m := challenge
			m.ID, m.Addr = uint64(i), tr.b.addr
			return m
		},
		"wants":    func(int) bypass.Message { return bypass.Message{Kind: bypass.MsgWant} },
		"syncs":    func(int) bypass.Message { return bypass.Message{Kind: bypass.MsgSync} },
		"alives":   func(int) bypass.Message { return bypass.Message{Kind: bypass.MsgAlive, IDs: ids} },
		"new runs": func(i int) bypass.Message { return bypass.Message{Kind: bypass.MsgWant, Epoch: uint64(5000 + i)} },
		"nonsense": func(int) bypass.Message { return bypass.Message{Kind: 99} },
		"wants and refusals": func(i int) bypass.Message {
			if i%2 == 0 {
				return bypass.Message{Kind: bypass.MsgWant}
			}
			return bypass.Message{Kind: bypass.MsgRefuse, ID: tr.asked(), Reason: bypass.ReasonTimeout}
		},
	}
}

// asked is the round for which A has challenged M last.
func (tr *trio) asked() uint64 {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for i := len(tr.toM) - 1; i >= 0; i-- {
		if tr.toM[i].Kind == bypass.MsgChallenge {
			return tr.toM[i].ID
		}
	}
	return tr.round
}

// A peer that sends 2,000 messages a second of any kind costs bounded work and memory;
// flows with another peer start, stay and end on time meanwhile.
func TestFloods(t *testing.T) {
	const each, every, last = 20, 10 * time.Millisecond, 2 * time.Second
	for name := range floods(&trio{pair: &pair{a: &node{}, b: &node{}}, m: &node{}}) {
		for _, id := range []byte{1, 9} {
			t.Run(fmt.Sprintf("%s/%d", name, id), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					tr := newTrio(t, id, slowSwitch)
					tr.silence()
					next := floods(tr)[name]
					changes, logged, start := tr.a.sw.Counters().Changes, tr.logged.Load(), time.Now()
					other := tr.flow
					other.Src = netip.AddrPortFrom(tr.a.ip, 40002)
					up := time.Duration(0)
					for i := 0; time.Since(start) < last; i++ {
						for k := range each {
							tr.forge(next(i*each + k))
						}
						if i == 100 {
							tr.a.member.Request(other, bypass.Verdict{Bypass: true})
						}
						if i >= 100 && up == 0 && tr.a.status(other).State == bypass.Bypassed {
							up = time.Since(start) - 100*every
						}
						pass(every)
						require.Equal(t, 2, tr.exchange(), "after %v", time.Since(start))
					}
					held, err := tr.a.member.Holds(t.Context())
					require.NoError(t, err)
					changes, logged = tr.a.sw.Counters().Changes-changes, tr.logged.Load()-logged
					require.NotZero(t, up, "no other flow could start")
					tr.a.member.SetPolicy(bypass.Never)
					off := until(t, 20*time.Second, "the others' flow is off", func() bool { return tr.sends() == 0 })
					t.Logf("another flow up in %v, off in %v; %d changes of the switch, %d bytes of log; held %+v", up, off, changes, logged, held)
					require.Less(t, up, time.Second)
					require.Less(t, off, time.Second)
					require.Less(t, logged, int64(16<<10))
					require.LessOrEqual(t, held.Changes, bypass.MaxChanges)
					require.LessOrEqual(t, held.Tuples, 1<<18)
					if !strings.HasPrefix(name, "offers") {
						require.Less(t, changes, uint64(100))
						require.Less(t, held.Flows, 10)
					}
					require.Less(t, len(tr.answers(&tr.toM)), most(name), "answers")
				})
			})
		}
	}
}

// most is how many answers 4,000 messages may have.
func most(flood string) int {
	if flood == "alives" {
		return 64 * 300
	}
	return 8100
}

// However many Offers come at once, there is never a long way to the switch.
func TestOffersDoNotQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTrio(t, 9, slowSwitch)
		tr.silence()
		next := floods(tr)["offers"]
		tr.forge(next(0)) // opens the gates
		pass(time.Second)
		start := time.Now()
		for i := range 20_000 {
			tr.forge(next(1 + i))
			if i%500 == 0 {
				synctest.Wait()
			}
		}
		require.Zero(t, time.Since(start), "all at once")
		tr.a.member.SetPolicy(bypass.Never)
		off := until(t, 20*time.Second, "the others' flow is off", func() bool { return tr.sends() == 0 })
		t.Logf("off in %v", off)
		require.Less(t, off, 500*time.Millisecond)
	})
}

// sends has A's workload send a segment to B's and tells how many left in clear.
func (tr *trio) sends() uint64 {
	n := tr.a.sw.Counters().Outbound
	tr.a.sw.Send(ofport, bypasstest.Packet{SrcMAC: tr.a.mac, DstMAC: tr.b.mac, Flow: tr.flow, Flags: bypasstest.FlagACK}.Frame())
	return tr.a.sw.Counters().Outbound - n
}

// A guest that scans 100,000 five-tuples: what it makes the hosts hold is bounded, and
// gone some minutes later; another guest's flow is not touched.
func TestScan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTrio(t, 9, slowSwitch)
		heap := heapNow()
		start := time.Now()
		for i := range scanned {
			f := bypass.Flow{Proto: bypass.TCP, Src: netip.AddrPortFrom(tr.a.ip, uint16(i)), Dst: netip.AddrPortFrom(tr.m.ip, uint16(1+i>>16))}
			tr.a.member.Request(f, bypass.Verdict{Bypass: true, Idle: 60 * time.Second})
			if i%100 == 99 { // 10,000 a second
				pass(10 * time.Millisecond)
				require.Equal(t, 2, tr.exchange(), "after %d", i)
			}
		}
		took := time.Since(start)
		held, err := tr.a.member.Holds(t.Context())
		require.NoError(t, err)
		rules := len(tr.a.sw.Rules())
		t.Logf("%d five-tuples in %v of virtual time: A holds %+v, %d rules in its switch, %d bytes a five-tuple (all hosts and switches)",
			scanned, took, held, rules, (heapNow()-heap)/scanned)
		most := 1 + 2*500 + int(500*took.Seconds()) // what one workload may begin
		require.LessOrEqual(t, held.Tuples, most)
		require.LessOrEqual(t, rules, 2*most+16)
		for range 60 {
			pass(5 * time.Second)
			require.Equal(t, 2, tr.exchange())
		}
		held, err = tr.a.member.Holds(t.Context())
		require.NoError(t, err)
		require.Less(t, held.Flows, 10)
		require.Less(t, held.Tuples, 10)
		require.Less(t, len(tr.a.sw.Rules()), 30)
		tr.unharmed("the scan")
	})
}

func heapNow() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
