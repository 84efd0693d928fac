package lab

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/nodeapi"
)

// nested is a lab of three virtual machines on two physical ones: the first and the third
// on one.
func nested(t *testing.T, lxc bool, needs ...string) *system {
	t.Helper()
	beside(t)
	s := newSystemOf(t, func(c *Config) { c.Hosts, c.Machines, c.Containers, c.LXC = 3, 2, 1, lxc }, needs...)
	s.startNodes()
	return s
}

// Containers of virtual machines are bypassed whether the physical machine between them is
// one or two, and what machines' bridges see of them are the virtual machines' addresses.
func TestIntegrationNested(t *testing.T) {
	s := nested(t, false)
	require.Equal(t, []int{1, 2, 1}, []int{s.hosts[0].Machine, s.hosts[1].Machine, s.hosts[2].Machine})
	reaches(t, s.Lab, s.hosts[0].Namespace, s.cfg.machineAddr(2), 1500, "a virtual machine and the other's physical one")
	r, err := s.Reach(t.Context())
	require.NoError(t, err)
	r.Print(t.Output())
	places := map[string]int{}
	for _, p := range r.Pairs {
		require.Equal(t, WayBypass, p.Way)
		require.GreaterOrEqual(t, p.RuleShare, most)
		places[p.Place]++
	}
	require.Equal(t, map[string]int{"the provider": 2, "one machine": 1}, places)
	require.Less(t, r.TAPShare, least)

	v := s.Between(1, 3, 1)
	again(t, func() error {
		m, err := v.Measure(t.Context(), MeasureConfig{Duration: time.Second, Rounds: 1})
		m.Print(t.Output())
		if err == nil && (m.Failed() || len(m.Rows) != 3) {
			err = errors.New("a row failed its proof")
		}
		return err
	})

	// Nothing but the machine's bridge is between the two: what it refuses is not bypassed.
	k, err := v.startStream(Kind{}, streamPort)
	require.NoError(t, err)
	defer k.abort()
	ctx, cancel := context.WithTimeout(t.Context(), bypassLimit)
	defer cancel()
	_, err = v.bypassedSince(ctx, k, time.Time{})
	require.NoError(t, err)
	_, err = s.in(ctx, s.cfg.machine(1), "nft",
		"table bridge cut { chain c { type filter hook forward priority 0; ip protocol { tcp, udp } th dport 61440-65535 drop; }; }")
	require.NoError(t, err)
	s.await(10*time.Second, "on the overlay", func() bool {
		state, _, _ := v.stateOf(ctx, k.from().String())
		return state == nodeapi.FlowOverlay
	})
	cut := time.Now()
	s.await(10*time.Second, "it carries on", func() bool { return k.arrived(cut) > 10*streamChunk })
	_, _, err = k.finish(finishTime)
	require.NoError(t, err)
}

// System containers, each with processes and mounts of its own. Where LXC cannot start any,
// this says why; TestIntegrationNested needs none.
func TestIntegrationNestedLXC(t *testing.T) {
	if err := LXCWorks(t.Context()); err != nil {
		requireNoLXC(t, err)
		return
	}
	s := nested(t, true, lxcPrograms()...)
	c := s.hosts[0].Containers[1]
	require.True(t, c.LXC)
	first, err := command(t.Context(), "nsenter", append(s.attachArgs(s.hosts[0], c)[1:], "--", "cat", "/proc/1/comm")...)
	require.NoError(t, err)
	require.Equal(t, "init", strings.TrimSpace(first), "it has processes of its own")
	r, err := s.Reach(t.Context())
	require.NoError(t, err)
	r.Print(t.Output())
	require.Len(t, r.Pairs, 15)
	ways := map[string]int{}
	for _, p := range r.Pairs {
		ways[p.Way]++
	}
	require.Equal(t, map[string]int{WaySwitch: 3, WayBypass: 12}, ways)
	again(t, func() error {
		x, err := s.SystemContainers(t.Context(), 1, 3, time.Second)
		t.Logf("%s to %s: %.0f Mbit/s, %s", x.From, x.To, x.Mbps, x.Proof)
		return err
	})

	d := s.state.data
	require.Len(t, d.LXC, 3)
	require.NoError(t, s.Down(t.Context()))
	requireGone(t, d)
	for _, ref := range d.LXC {
		cgroups, err := filepath.Glob("/sys/fs/cgroup/*/lxc.*." + ref.Name)
		require.NoError(t, err)
		require.Empty(t, cgroups)
	}
}

// again does something up to three times: what fills a busy machine's processors may leave
// the bypass, since its probes go unanswered.
func again(t *testing.T, do func() error) {
	t.Helper()
	var err error
	for range 3 {
		if err = do(); err == nil {
			return
		}
		t.Log(err)
	}
	require.NoError(t, err)
}

// requireNoLXC: there is a reason, in other people's words.
func requireNoLXC(t *testing.T, err error) {
	t.Helper()
	require.ErrorIs(t, err, ErrLXC)
	t.Logf("no system containers here: %v", err)
}

func TestIntegrationLXCSaysWhy(t *testing.T) {
	t.Run("a program is missing", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		err := LXCWorks(t.Context())
		require.ErrorIs(t, err, ErrLXC)
		require.ErrorContains(t, err, "lxc-start")
	})
	t.Run("the log is quoted", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "log"), []byte("a INFO b\nlxc-start x ERROR cgfsng - no cgroups\n"), 0o600))
		err := lxcError(dir, errors.New("exit status 1"))
		require.ErrorIs(t, err, ErrLXC)
		require.ErrorContains(t, err, "exit status 1: lxc-start x ERROR cgfsng - no cgroups")
		require.NotContains(t, err.Error(), "INFO")
	})
}
