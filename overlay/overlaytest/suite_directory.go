package overlaytest

import (
	"context"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// DirectoryHarness is how [RunDirectory] gets at an implementation. Directories that one harness
// opened are the same; the suite closes them.
type DirectoryHarness struct {
	// Open opens a Directory.
	Open overlay.DirectoryOpener
	// Run, unless nil, runs every case: synctest.Test for what works in a bubble.
	Run func(t *testing.T, f func(*testing.T))
	// ShortLife is the shortest life of an entry that expires in time. Default 1 s.
	ShortLife time.Duration
}

// RunDirectory is the conformance suite of overlay.Directory. newHarness is called for
// every case.
func RunDirectory(t *testing.T, newHarness func(t *testing.T) DirectoryHarness) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, h DirectoryHarness)
	}{
		{"Lookup", testDirectoryLookup},
		{"Longest", testDirectoryLongest},
		{"Replace", testDirectoryReplace},
		{"Withdraw", testDirectoryWithdraw},
		{"FirstComeFirstServed", testDirectoryOrder},
		{"Expiry", testDirectoryExpiry},
		{"Watch", testDirectoryWatch},
		{"OthersRecords", testDirectoryOthers},
		{"NetworksApart", testDirectoryNetworks},
		{"ManyClaims", testDirectoryMany},
		{"Cancel", testDirectoryCancel},
		{"Close", testDirectoryClose},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeak(t) // whatever the harness starts has to end, too
			h := newHarness(t)
			if h.Run == nil {
				c.run(t, h)
				return
			}
			h.Run(t, func(t *testing.T) { c.run(t, newHarness(t)) })
		})
	}
}

const directoryNetwork = "blue"

// publisher is a node with a Directory.
type publisher struct {
	overlay.Directory
	t        testing.TB
	id       *overlay.Identity
	network  string
	sequence uint64
}

func openDirectory(t testing.TB, h DirectoryHarness, id *overlay.Identity, network string) *publisher {
	t.Helper()
	d, err := h.Open(timeout(t), overlay.DirectoryEnv{Identity: id, Network: network, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.Close() })
	return &publisher{d, t, id, network, 0}
}

func directoryPair(t testing.TB, h DirectoryHarness) (a, b *publisher) {
	return openDirectory(t, h, NewIdentity(t), directoryNetwork), openDirectory(t, h, NewIdentity(t), directoryNetwork)
}

// record signs an entry, the publisher's next.
func (p *publisher) record(life time.Duration, e overlay.Entry) overlay.Record {
	p.t.Helper()
	p.sequence++
	e.Sequence, e.Issued, e.Life = p.sequence, time.Now(), life
	r, err := overlay.SignEntry(p.id, p.network, e)
	require.NoError(p.t, err)
	return r
}

// tell publishes an entry and returns it.
func (p *publisher) tell(e overlay.Entry) overlay.Record {
	p.t.Helper()
	r := p.record(10*time.Minute, e)
	require.NoError(p.t, p.Publish(timeout(p.t), r))
	return r
}

// sees waits until a key has exactly the claims of these records, in this order.
func (p *publisher) sees(key overlay.DirectoryKey, want ...overlay.Record) {
	p.t.Helper()
	ctx, again := timeout(p.t), time.NewTicker(10*time.Millisecond)
	defer again.Stop()
	for {
		list, err := p.Lookup(ctx, key)
		require.NoError(p.t, err)
		if same(list, want) {
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			require.FailNow(p.t, "timed out", "%s has %d claims, not those %d, or in another order", key, len(list), len(want))
		}
	}
}

func same(list []overlay.Claim, want []overlay.Record) bool {
	if len(list) != len(want) {
		return false
	}
	for i, c := range list {
		if string(c.Signed) != string(want[i].Signed) || i > 0 && c.Order <= list[i-1].Order {
			return false
		}
	}
	return true
}

func stationMAC(i int) tap.MAC { return tap.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)} }

func testDirectoryLookup(t *testing.T, h DirectoryHarness) {
	a, b := directoryPair(t, h)
	four, six := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")
	r := a.tell(overlay.Entry{MAC: stationMAC(1), IPs: []netip.Addr{six, four}, Name: "Web 1.å", Tag: "front"})
	other := a.tell(overlay.Entry{MAC: stationMAC(2)})
	for _, p := range []*publisher{a, b} {
		for _, k := range []overlay.DirectoryKey{overlay.KeyMAC(stationMAC(1)), overlay.KeyIP(four), overlay.KeyIP(six), overlay.KeyName("Web 1.å"), overlay.KeyName("wEB 1.å")} {
			p.sees(k, r)
		}
		p.sees(overlay.KeyMAC(stationMAC(2)), other)
		p.sees(overlay.KeyMAC(stationMAC(3)))
		p.sees(overlay.KeyIP(netip.MustParseAddr("10.0.0.2")))
		p.sees(overlay.KeyName("nobody"))
	}
	list, err := b.Lookup(timeout(t), overlay.KeyIP(six))
	require.NoError(t, err)
	got, err := overlay.OpenEntry(directoryNetwork, list[0].Signed)
	require.NoError(t, err)
	require.Equal(t, r, got)
}

func testDirectoryLongest(t *testing.T, h DirectoryHarness) {
	a, b := directoryPair(t, h)
	e := overlay.Entry{MAC: stationMAC(1), Name: string(pattern(overlay.MaxEntryText, 1)), Tag: string(pattern(overlay.MaxEntryText, 2))}
	for i := range overlay.MaxEntryIPs {
		e.IPs = append(e.IPs, netip.AddrFrom16([16]byte{0xfd, 15: byte(i)}))
	}
	r := a.tell(e)
	for _, k := range r.Keys() {
		b.sees(k, r)
	}
}

func testDirectoryReplace(t *testing.T, h DirectoryHarness) {
	a, b := directoryPair(t, h)
	one, two := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	r := a.tell(overlay.Entry{MAC: stationMAC(1), IPs: []netip.Addr{one}, Name: "x"})
	b.sees(overlay.KeyIP(one), r)
	r = a.tell(overlay.Entry{MAC: stationMAC(1), IPs: []netip.Addr{two}, Name: "y"})
	b.sees(overlay.KeyMAC(stationMAC(1)), r)
	b.sees(overlay.KeyIP(two), r)
	b.sees(overlay.KeyName("y"), r)
	b.sees(overlay.KeyIP(one))
	b.sees(overlay.KeyName("x"))
}

func testDirectoryWithdraw(t *testing.T, h DirectoryHarness) {
	a, b := directoryPair(t, h)
	ip := netip.MustParseAddr("10.0.0.1")
	r := a.tell(overlay.Entry{MAC: stationMAC(1), IPs: []netip.Addr{ip}, Name: "x"})
	stays := a.tell(overlay.Entry{MAC: stationMAC(2)})
	b.sees(overlay.KeyIP(ip), r)
	require.NoError(t, b.Withdraw(timeout(t), stationMAC(1)), "it has nothing to withdraw")
	a.sees(overlay.KeyMAC(stationMAC(1)), r)
	require.NoError(t, a.Withdraw(timeout(t), stationMAC(1)))
	for _, k := range r.Keys() {
		b.sees(k)
	}
	b.sees(overlay.KeyMAC(stationMAC(2)), stays)
}

// testDirectoryOrder: who claims an address first is first until the claim ends, whatever anybody
// says of when it began.
func testDirectoryOrder(t *testing.T, h DirectoryHarness) {
	a, b := directoryPair(t, h)
	ip := netip.MustParseAddr("10.0.0.1")
	e := overlay.Entry{MAC: stationMAC(1), IPs: []netip.Addr{ip}}
	first := a.tell(e)
	a.sees(overlay.KeyIP(ip), first)
	second := b.tell(e)
	a.sees(overlay.KeyIP(ip), first, second)
	first = a.tell(e) // renewed
	b.sees(overlay.KeyMAC(stationMAC(1)), first, second)
	b.sees(overlay.KeyIP(ip), first, second)
	require.NoError(t, a.Withdraw(timeout(t), stationMAC(1)))
	b.sees(overlay.KeyIP(ip), second)
	first = a.tell(e)
	b.sees(overlay.KeyIP(ip), second, first)
	b.sees(overlay.KeyMAC(stationMAC(1)), second, first)
	// Each key has an order of its own.
	late := netip.MustParseAddr("10.0.0.2")
	r := a.tell(overlay.Entry{MAC: stationMAC(1), IPs: []netip.Addr{ip, late}})
	b.sees(overlay.KeyIP(late), r)
	s := b.tell(overlay.Entry{MAC: stationMAC(1), IPs: []netip.Addr{ip, late}})
	a.sees(overlay.KeyIP(ip), s, r)
	a.sees(overlay.KeyIP(late), r, s)
}

func testDirectoryExpiry(t *testing.T, h DirectoryHarness) {
	a, b := directoryPair(t, h)
	life := max(h.ShortLife, overlay.MinEntryLife)
	stays := a.tell(overlay.Entry{MAC: stationMAC(2)})
	r := a.record(life, overlay.Entry{MAC: stationMAC(1), Name: "x"})
	require.NoError(t, a.Publish(timeout(t), r))
	b.sees(overlay.KeyName("x"), r)
	for _, k := range r.Keys() {
		b.sees(k) // some time later
	}
	require.GreaterOrEqual(t, time.Since(r.Issued), life, "expired before its time")
	b.sees(overlay.KeyMAC(stationMAC(2)), stays)
	// A claim that ended begins behind those that came meanwhile.
	second := b.tell(overlay.Entry{MAC: stationMAC(1)})
	b.sees(overlay.KeyMAC(stationMAC(1)), second)
	first := a.tell(overlay.Entry{MAC: stationMAC(1), Name: "x"})
	b.sees(overlay.KeyMAC(stationMAC(1)), second, first)
}

func testDirectoryWatch(t *testing.T, h DirectoryHarness) {
	a, b := directoryPair(t, h)
	ip := netip.MustParseAddr("10.0.0.1")
	told, unwanted := make(chan struct{}, 1), atomic.Int64{}
	stop := b.Watch(overlay.KeyIP(ip), func() {
		select {
		case told <- struct{}{}:
		default:
		}
	})
	step := func(what string, do func()) {
		t.Helper()
		drain(told)
		do()
		wait(t, told, what)
	}
	b.sees(overlay.KeyIP(ip)) // from here on it is told of everything
	e := overlay.Entry{MAC: stationMAC(1), IPs: []netip.Addr{ip}}
	step("published", func() { a.tell(e) })
	step("replaced", func() { a.tell(e) })
	other := a.tell(overlay.Entry{MAC: stationMAC(9)})
	b.sees(overlay.KeyMAC(stationMAC(9)), other)
	step("withdrawn", func() { require.NoError(t, a.Withdraw(timeout(t), stationMAC(1))) })
	stop()
	done := make(chan struct{}, 1)
	defer b.Watch(overlay.KeyMAC(stationMAC(1)), func() {
		select {
		case done <- struct{}{}:
		default:
		}
	})()
	defer b.Watch(overlay.KeyMAC(stationMAC(9)), func() { unwanted.Add(1) })()
	b.sees(overlay.KeyMAC(stationMAC(1)))
	drain(told)
	before := unwanted.Load()
	a.tell(e)
	wait(t, done, "published, under another key")
	require.Empty(t, told, "it was stopped")
	require.Equal(t, before, unwanted.Load(), "of another key")
}

func drain(c chan struct{}) {
	select {
	case <-c:
	default:
	}
}

func testDirectoryOthers(t *testing.T, h DirectoryHarness) {
	a, b := directoryPair(t, h)
	r := a.record(time.Minute, overlay.Entry{MAC: stationMAC(1)})
	require.Error(t, b.Publish(timeout(t), r), "a record of somebody else's")
	own := b.tell(overlay.Entry{MAC: stationMAC(1)})
	a.sees(overlay.KeyMAC(stationMAC(1)), own)
}

func testDirectoryNetworks(t *testing.T, h DirectoryHarness) {
	id := NewIdentity(t)
	a, b, c := openDirectory(t, h, id, "blue"), openDirectory(t, h, id, "green"), openDirectory(t, h, NewIdentity(t), "Blue")
	r := a.tell(overlay.Entry{MAC: stationMAC(1)})
	a.sees(overlay.KeyMAC(stationMAC(1)), r)
	b.sees(overlay.KeyMAC(stationMAC(1)))
	c.sees(overlay.KeyMAC(stationMAC(1)))
	s := b.tell(overlay.Entry{MAC: stationMAC(1)})
	b.sees(overlay.KeyMAC(stationMAC(1)), s)
	require.NoError(t, b.Withdraw(timeout(t), stationMAC(1)))
	b.sees(overlay.KeyMAC(stationMAC(1)))
	a.sees(overlay.KeyMAC(stationMAC(1)), r)
}

// testDirectoryMany: the first claims are listed, however many follow.
func testDirectoryMany(t *testing.T, h DirectoryHarness) {
	var want []overlay.Record
	var reader *publisher
	for i := range overlay.MaxClaims + 4 {
		p := openDirectory(t, h, NewIdentity(t), directoryNetwork)
		r := p.tell(overlay.Entry{MAC: stationMAC(1)})
		if reader == nil {
			reader = p
		}
		if i < overlay.MaxClaims {
			want = append(want, r)
		}
		reader.sees(overlay.KeyMAC(stationMAC(1)), want...)
	}
}

func testDirectoryCancel(t *testing.T, h DirectoryHarness) {
	a, _ := directoryPair(t, h)
	ctx, cancel := context.WithCancel(timeout(t))
	cancel()
	_, err := a.Lookup(ctx, overlay.KeyMAC(stationMAC(1)))
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, a.Publish(ctx, a.record(time.Minute, overlay.Entry{MAC: stationMAC(1)})), context.Canceled)
	require.ErrorIs(t, a.Withdraw(ctx, stationMAC(1)), context.Canceled)
	a.sees(overlay.KeyMAC(stationMAC(1)))
}

func testDirectoryClose(t *testing.T, h DirectoryHarness) {
	a, b := directoryPair(t, h)
	r := a.tell(overlay.Entry{MAC: stationMAC(1)})
	b.sees(overlay.KeyMAC(stationMAC(1)), r)
	stop := a.Watch(overlay.KeyMAC(stationMAC(2)), func() {})
	require.NoError(t, a.Close())
	require.NoError(t, a.Close(), "Close is idempotent")
	stop()
	_, err := a.Lookup(timeout(t), overlay.KeyMAC(stationMAC(1)))
	require.ErrorIs(t, err, overlay.ErrClosed)
	require.ErrorIs(t, a.Publish(timeout(t), r), overlay.ErrClosed)
	require.ErrorIs(t, a.Withdraw(timeout(t), stationMAC(1)), overlay.ErrClosed)
	b.sees(overlay.KeyMAC(stationMAC(1)), r)
}
