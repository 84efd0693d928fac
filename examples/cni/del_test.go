//go:build unix

package main

import (
	"encoding/json"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"
)

func TestDel(t *testing.T) {
	p, _ := added(t)
	plugin, _ := p.plugin("")
	for range 2 {
		require.NoError(t, plugin.del(t.Context()))
		require.Empty(t, p.left())
	}
	require.Equal(t, []string{"ADD c1 eth0", "DEL c1 eth0", "DEL c1 eth0"}, p.asked())
}

// What does not answer does not keep DEL from the rest; the runtime is told to come again where
// something is left that nobody else would remove.
func TestDelDoesWhatItCan(t *testing.T) {
	name := c1.name()
	for _, s := range []struct {
		fails string
		left  []string
		asked int
		ok    bool
	}{
		{"delete", []string{"endpoint " + name}, 2, true}, // the next ADD or GC sweeps it
		{"ovsdb", []string{"port " + name}, 2, false},
		{"del-port", []string{"port " + name}, 2, false},
		{"unplug", []string{"pair " + name}, 2, false},
	} {
		p, _ := added(t)
		p.fail(s.fails)
		plugin, _ := p.plugin("")
		err := plugin.del(t.Context())
		require.Equal(t, s.left, p.left(), s.fails)
		require.Len(t, p.asked(), s.asked)
		if s.ok {
			require.NoError(t, err, s.fails)
			plugin.conf.Attachments = nil
			p.fail()
			require.NoError(t, plugin.gc(t.Context()))
			require.Empty(t, p.left())
			continue
		}
		require.EqualValues(t, types.ErrTryAgainLater, code(t, err), s.fails)
		p.fail()
		require.NoError(t, plugin.del(t.Context()))
		require.Empty(t, p.left(), s.fails)
	}
	p, _ := added(t)
	p.ipam(`echo '{"cniVersion":"1.1.0","code":11,"msg":"its file is locked"}'; exit 1`)
	plugin, _ := p.plugin("")
	require.ErrorContains(t, plugin.del(t.Context()), "its file is locked")
	require.Empty(t, p.left())
	p, _ = added(t)
	p.change(func() { delete(p.endpoints, name) }) // as when the node is dead
	p.socket += "-none"
	plugin, _ = p.plugin("")
	require.NoError(t, plugin.del(t.Context()))
	require.Empty(t, p.left())
}

// An endpoint that is not there is detached.
func TestDetachTwice(t *testing.T) {
	p, _ := added(t)
	plugin, _ := p.plugin("")
	require.NoError(t, plugin.detach(t.Context(), c1.name()))
	require.NoError(t, plugin.detach(t.Context(), c1.name()))
	p.fail("delete")
	require.Error(t, plugin.detach(t.Context(), c1.name()))
}

func TestGC(t *testing.T) {
	p, _ := added(t)
	old, unplugged, forgotten := attachment{"blue", "old", "eth0"}, attachment{"blue", "u", "eth0"}.name(), attachment{"blue", "f", "eth0"}.name()
	plugin, _ := p.plugin("")
	plugin.args.ContainerID, plugin.args.Netns = old.container, "/run/netns/old"
	require.NoError(t, plugin.add(t.Context()))
	p.pairs[unplugged] = pair{host: unplugged}
	p.forgotten(forgotten)
	other := attachment{"red", "x", "eth0"}.name()
	p.forgotten(other)
	p.pairs[other] = pair{host: other}
	require.NotEqual(t, prefix("blue"), prefix("red"))

	plugin, _ = p.plugin(`"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]`)
	plugin.args.ContainerID, plugin.args.IfName, plugin.args.Netns = "", "", ""
	require.NoError(t, plugin.gc(t.Context()))
	require.ElementsMatch(t, []string{"endpoint " + c1.name(), "pair " + c1.name(), "port " + c1.name(), "endpoint " + other, "pair " + other}, p.left())
	require.Equal(t, []string{"DEL old eth0", "GC"}, p.asked()[2:])

	plugin, _ = p.plugin(`"cni.dev/attachments": [{"containerID": "c1", "ifname": "eth0"}]`)
	require.NoError(t, plugin.gc(t.Context()))
	require.Len(t, p.left(), 5, "the key that 1.1.0 had first")

	for _, fails := range []string{"ovsdb", "list", "unplug", "del-port", "delete"} {
		p.fail(fails)
		p.ports[old.name()] = map[string]string{idContainer: old.container, idIfname: old.ifname}
		p.forgotten(forgotten)
		p.pairs[unplugged] = pair{host: unplugged}
		plugin, _ = p.plugin("")
		require.EqualValues(t, types.ErrTryAgainLater, code(t, plugin.gc(t.Context())), fails)
	}
	p.fail()
	plugin, _ = p.plugin("")
	require.NoError(t, plugin.gc(t.Context()))
	require.ElementsMatch(t, []string{"endpoint " + other, "pair " + other}, p.left())
}

func TestCheck(t *testing.T) {
	p, out := added(t)
	check := func(change func()) error {
		t.Helper()
		plugin, _ := p.plugin(`"prevResult": ` + out)
		change()
		return plugin.check(t.Context())
	}
	require.NoError(t, check(func() {}))
	require.Equal(t, "CHECK c1 eth0", p.asked()[1])
	name := c1.name()
	l, ids := p.pairs[name], p.ports[name]

	require.EqualValues(t, codeBroken, code(t, check(func() { delete(p.pairs, name) })))
	p.pairs[name] = l
	require.EqualValues(t, codeBroken, code(t, check(func() { delete(p.ports, name) })))
	p.ports[name] = ids
	require.EqualValues(t, types.ErrTryAgainLater, code(t, check(func() { p.fail("ovsdb") })))
	p.fail()
	require.EqualValues(t, types.ErrTryAgainLater, code(t, check(func() { p.change(func() { p.status.Ready = false }) })))
	p.change(func() { p.status.Ready = true })
	p.ipam(`echo '{"code":100,"msg":"nobody has that address"}'; exit 1`)
	require.ErrorContains(t, check(func() {}), "nobody has that address")

	plugin, _ := p.plugin("")
	require.EqualValues(t, types.ErrInvalidNetworkConfig, code(t, plugin.check(t.Context())), "no prevResult")
	plugin, _ = p.plugin(`"prevResult": {"cniVersion": "1.1.0", "interfaces": [{"name": "eth1"}]}`)
	require.ErrorContains(t, plugin.check(t.Context()), "no interface eth0")
}

func TestStatus(t *testing.T) {
	p := newPlace(t)
	status := func() error {
		plugin, _ := p.plugin("")
		plugin.args.ContainerID, plugin.args.IfName, plugin.args.Netns = "", "", ""
		return plugin.status(t.Context())
	}
	require.NoError(t, status())
	require.Equal(t, []string{"STATUS"}, p.asked())
	p.ipam(`echo '{"code":50,"msg":"no address is left"}'; exit 1`)
	require.EqualValues(t, types.ErrPluginNotAvailable, code(t, status()))
	for fails, change := range map[string]func(){"": func() { p.status.Ready = false }, "ovsdb": func() {}, "vswitchd": func() { p.status.Ready = true }} {
		p.change(change)
		p.fail(fails)
		require.EqualValues(t, types.ErrPluginNotAvailable, code(t, status()), fails)
	}
	p, _ = added(t)
	p.change(func() { p.status.Ready = false })
	err := status()
	require.EqualValues(t, types.ErrLimitedConnectivity, code(t, err), "there are containers")
	b, jsonErr := json.Marshal(err)
	require.NoError(t, jsonErr)
	require.Contains(t, string(b), `"code":51`)
}
