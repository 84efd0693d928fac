package natssignal_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay/natssignal/embedded"
)

// partible runs three servers that have one way to each other only, through the valves:
// valves[i] are those on which all that is between server i and the others depends.
func partible(t testing.TB) (servers []*embedded.Server, valves [][]*valve) {
	t.Helper()
	const n = 3
	at := freePorts(t, n)
	routes := make([][]string, n)
	valves = make([][]*valve, n)
	for i := range n {
		for j := range n {
			if i == j {
				continue
			}
			v := newValve(t, at[j].String(), 0)
			routes[i] = append(routes[i], v.Addr().String())
			valves[i], valves[j] = append(valves[i], v), append(valves[j], v)
		}
	}
	for i := range n {
		servers = append(servers, serve(t, embedded.Config{
			Name: "n" + string(rune('1'+i)), Store: t.TempDir(),
			// What members tell each other of members leads nowhere: no way past the valves.
			Cluster: &embedded.Cluster{Listen: at[i], Advertise: "127.0.0.1:1", Routes: routes[i], Secret: "among us"},
		}))
	}
	return servers, valves
}

// silent tells whether what p sends does not come to q for a while.
func (p *peer) silent(t testing.TB, q *peer, msg string) bool {
	t.Helper()
	for range 20 {
		require.NoError(t, p.Send(deadline(t), q.id.ID(), []byte(msg)))
		select {
		case m := <-q.inbox:
			if m == msg {
				return false
			}
		case <-time.After(10 * time.Millisecond):
		}
	}
	return true
}

// seldom asks at most ten times a second: looking at presence is work for three servers.
func seldom(done func() bool) func() bool {
	var last time.Time
	return func() bool {
		if time.Since(last) < 100*time.Millisecond {
			return false
		}
		defer func() { last = time.Now() }()
		return done()
	}
}

// One of three servers is cut off from the others. Both sides go on among themselves, the
// greater one with presence; afterwards all is as before, and nobody had to do anything.
func TestClusterPartition(t *testing.T) {
	t.Parallel() // it waits for Raft's time-outs, mostly
	servers, valves := partible(t)
	var all []*peer
	for i := range 6 { // two peers at each server
		all = append(all, connect(t, blue(servers[i/2].URL())))
	}
	alone, far := all[4], all[5] // at the server that will be cut off
	everybody := func(what string) {
		t.Helper()
		for i, p := range all {
			p.tell(t, all[(i+1)%len(all)], what)
			p.tell(t, all[(i+2)%len(all)], what)
		}
		for _, p := range all {
			await(t, what+": presence", seldom(func() bool { return p.sees(all[0]) && p.sees(all[2]) && p.sees(alone) }))
		}
	}
	everybody("before")

	for _, v := range valves[2] {
		v.shut()
	}
	all[0].tell(t, all[1], "in the greater part")
	all[0].tell(t, all[2], "between its servers")
	alone.tell(t, far, "in the lesser part")
	require.True(t, all[0].silent(t, alone, "across"), "the servers are not apart")
	newcomer := connect(t, blue(servers[0].URL()))
	await(t, "presence in the greater part", seldom(func() bool { return all[0].sees(all[2]) && all[3].sees(newcomer) }))
	await(t, "the lesser part to notice that it is alone", seldom(func() bool {
		ctx, cancel := timeoutOf(2 * time.Second)
		defer cancel()
		_, err := alone.Present(ctx)
		return err != nil
	}))
	failed := alone.Stats().PresenceFailed
	await(t, "its failures to be counted", func() bool { return alone.Stats().PresenceFailed > failed })
	far.tell(t, alone, "still, without presence")

	for _, v := range valves[2] {
		v.reopen()
	}
	everybody("healed")
	await(t, "the newcomer to be seen from where it could not be", seldom(func() bool { return alone.sees(newcomer) }))
	for _, p := range all {
		require.Equal(t, uint64(1), p.Stats().Connected, "nobody had to leave its server")
	}
}

// Without a quorum presence cannot be asked, and that is what is said; it is bounded by the
// caller's time.
func TestPresenceSaysWhy(t *testing.T) {
	s := serve(t, embedded.Config{Cluster: &embedded.Cluster{
		Listen: loopback, Routes: []string{"127.0.0.1:1"}, Secret: "among us", // nobody is there
	}})
	p := connect(t, blue(s.URL()))
	p.tell(t, p, "signalling works")
	ctx, cancel := timeoutOf(200 * time.Millisecond)
	defer cancel()
	_, err := p.Present(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "presence: bucket: ")
}
