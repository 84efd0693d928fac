package nat

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestIntegrationSwitch: where a NAT becomes another a link leaves its relay for a direct path,
// under traffic, and each datagram of it arrives once.
func TestIntegrationSwitch(t *testing.T) {
	w := newWorld(t)
	type change struct {
		name         string
		a, from, now Router
	}
	changes := []change{
		{"a filter is lifted", symmetric, portRestricted, Router{}},
		{"UDP is let out", portRestricted, Router{Egress: NoUDP, Filtering: AddressAndPortDependent}, portRestricted},
		{"all is let out", symmetric, Router{Egress: HTTPS, Filtering: AddressDependent}, Router{Filtering: AddressDependent}},
	}
	var pairs []*pair
	for i, c := range changes {
		p := &pair{session: i, ka: natKind(c.name, "", c.a), kb: natKind(c.name, "", c.from)}
		p.a, p.b = p.ka.make(w), p.kb.make(w)
		w.start(p.a, p.b)
		pairs = append(pairs, p)
	}
	require.NoError(t, each(pairs, func(_ int, p *pair) error { return w.link(p) }))
	for i, p := range pairs {
		var before Path
		require.NoError(t, p.a.Call("node.Settle", Settling{p.session, 1, patience}, &before))
		require.True(t, before.Relay, changes[i].name)
		require.NoError(t, p.a.Call("node.Stream", p.session, &Nothing{}))
		require.NoError(t, p.b.Call("node.Stream", p.session, &Nothing{}))
	}
	for i, p := range pairs { // the stream goes by the relay
		for _, end := range []*place{p.a, p.b} {
			require.Eventually(t, func() bool {
				var c Counts
				return end.Call("node.Count", p.session, &c) == nil && c.Answered > 200
			}, patience, 10*time.Millisecond, changes[i].name)
		}
	}
	start := time.Now()
	for i, p := range pairs {
		r := changes[i].now
		r.Outer = outer(p.b.number)
		w.rules(p.b.routers[0], r)
	}
	for i, p := range pairs {
		for _, end := range []*place{p.a, p.b} {
			var after Path
			require.NoError(t, end.Call("node.Settle", Settling{p.session, 1 << 30, patience}, &after))
			require.False(t, after.Relay, changes[i].name)
			require.EqualValues(t, 2, after.Paths, changes[i].name)
		}
		t.Logf("%s: direct after %v", changes[i].name, time.Since(start).Round(time.Millisecond))
	}
	// Until the old path, and with it the relays, are gone.
	gone := time.Now().Add(2500 * time.Millisecond)
	require.Eventually(t, func() bool { return time.Now().After(gone) }, patience, 50*time.Millisecond)
	for i, p := range pairs {
		for _, end := range []*place{p.a, p.b} {
			var c Counts
			require.NoError(t, end.Call("node.Finish", p.session, &c))
			t.Logf("%s: %+v", changes[i].name, c)
			require.Equal(t, c.Sent, c.Answered, "%s: %s", changes[i].name, w.drops(p))
			require.Zero(t, c.Repeated, changes[i].name)
		}
	}
}

// drops says where datagrams of a pair were lost.
func (w *world) drops(p *pair) string {
	var text strings.Builder
	for _, end := range []*place{p.a, p.b} {
		var d string
		err := end.Call("node.Drops", p.session, &d)
		fmt.Fprintf(&text, "%s: %s %v\n", end.ns, d, err)
	}
	var d string
	err := w.servers.process.Call("servers.Drops", Nothing{}, &d)
	fmt.Fprintf(&text, "servers: %s %v\n", d, err)
	return text.String()
}
