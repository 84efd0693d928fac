//go:build unix

package main

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

var c1 = attachment{"blue", "c1", "eth0"}

// added is a place where c1 has its interface, with what ADD answered.
func added(t *testing.T) (*place, string) {
	p := newPlace(t)
	plugin, out := p.plugin(`"tag": "web", "vlan": 7`)
	require.NoError(t, plugin.add(t.Context()))
	return p, out.String()
}

func TestAdd(t *testing.T) {
	p, out := added(t)
	name, mac := c1.name(), c1.ownMAC(overlay.PeerID{1})
	require.Equal(t, []string{"endpoint " + name, "pair " + name, "port " + name}, p.left())
	attached, _ := p.endpoint(name)
	require.Equal(t, nodecfg.Endpoint{Name: name, Port: name, MAC: mac, IPs: []netip.Addr{netip.MustParseAddr("10.1.0.5")}, Tag: "web"}, attached)
	require.Equal(t, map[string]string{"iface-id": name, "attached-mac": mac.String(), "ip-address": "10.1.0.5",
		"container-id": "c1", "vias-cni-network": "blue", "vias-cni-ifname": "eth0", "vias-tag": "web"}, p.ports[name])
	require.Equal(t, pair{host: name, netns: "/run/netns/c1", ifname: "eth0", mac: mac, mtu: 1400}, p.pairs[name])
	r, err := types100.NewResult([]byte(out))
	require.NoError(t, err)
	require.Equal(t, mac.String(), r.(*types100.Result).Interfaces[1].Mac)

	plugin, again := p.plugin("")
	require.EqualValues(t, codeExists, code(t, plugin.add(t.Context())), "a second ADD")
	plugin.args.Netns = "/run/netns/c2"
	require.EqualValues(t, codeExists, code(t, plugin.add(t.Context())), "with another namespace")
	require.Empty(t, again.String())
	require.Len(t, p.left(), 3)
	require.Equal(t, []string{"ADD c1 eth0"}, p.asked(), "the first keeps its address")
}

// Whatever step fails, nothing is left, and the runtime learns what to do.
func TestAddIsUndone(t *testing.T) {
	for _, s := range []struct {
		fails   string
		refusal int
		code    uint
		asked   []string
	}{
		{"netns", 0, types.ErrInvalidNetNS, nil},
		{"list", 0, codeKernel, nil},
		{"ovsdb", 0, types.ErrTryAgainLater, nil},
		{"plug", 0, codeKernel, []string{"ADD c1 eth0", "DEL c1 eth0"}},
		{"configure", 0, codeKernel, []string{"ADD c1 eth0", "DEL c1 eth0"}},
		{"add-port", 0, codeSwitch, []string{"ADD c1 eth0", "DEL c1 eth0"}},
		{"put", http.StatusBadRequest, types.ErrInvalidNetworkConfig, []string{"ADD c1 eth0", "DEL c1 eth0"}},
		{"put", http.StatusServiceUnavailable, types.ErrTryAgainLater, []string{"ADD c1 eth0", "DEL c1 eth0"}},
		{"put", 0, types.ErrTryAgainLater, []string{"ADD c1 eth0", "DEL c1 eth0"}},
	} {
		p := newPlace(t)
		p.fail(s.fails)
		p.change(func() { p.refusal = s.refusal })
		plugin, out := p.plugin("")
		err := plugin.add(t.Context())
		require.Equal(t, s.code, code(t, err), "%s: %v", s.fails, err)
		require.Empty(t, p.left(), s.fails)
		require.Equal(t, s.asked, p.asked(), s.fails)
		require.Empty(t, out.String())
	}
}

// What cannot be undone is said.
func TestAddSaysWhatIsLeft(t *testing.T) {
	p := newPlace(t)
	p.fail("add-port", "unplug")
	plugin, _ := p.plugin("")
	err := plugin.add(t.Context())
	require.ErrorContains(t, err, "left for DEL: out of order")
	require.EqualValues(t, codeSwitch, code(t, err))
}

func TestAddWithoutNode(t *testing.T) {
	p := newPlace(t)
	for want, change := range map[string]func(){
		"is not ready":        func() { p.status.Ready = false },
		"has no bridge":       func() { p.status.Bridge = "" },
		"bridge is br7":       func() { p.status.Bridge = "br7" },
		"no vias node answer": func() { p.socket += "-none" },
	} {
		was, socket := p.status, p.socket
		p.change(change)
		plugin, _ := p.plugin("")
		err := plugin.add(t.Context())
		require.ErrorContains(t, err, want)
		code(t, err)
		p.change(func() { p.status, p.socket = was, socket })
	}
	require.Empty(t, p.left())
	require.Empty(t, p.asked())
}

// A DEL that the node did not hear of: the next ADD takes the endpoint off, whose address it may
// have been given. Others' endpoints stay.
func TestAddSweeps(t *testing.T) {
	p := newPlace(t)
	stale, other := attachment{"blue", "old", "eth0"}.name(), attachment{"red", "old", "eth0"}.name()
	for _, name := range []string{stale, other, "h1c1"} {
		p.forgotten(name)
	}
	plugin, _ := p.plugin("")
	require.NoError(t, plugin.add(t.Context()))
	_, there := p.endpoint(stale)
	require.False(t, there)
	require.Len(t, p.left(), 5, "two of others, and three things of c1")
	p.forgotten(stale)
	p.fail("delete")
	plugin, _ = p.plugin("")
	plugin.args.ContainerID, plugin.args.Netns = "c2", "/run/netns/c2"
	require.EqualValues(t, types.ErrTryAgainLater, code(t, plugin.add(t.Context())))
}

// Without an IPAM plugin the container has no address of ours.
func TestAddWithoutIPAM(t *testing.T) {
	p := newPlace(t)
	plugin, out := p.plugin(`"runtimeConfig": {"mac": "02:00:00:00:00:07"}`)
	plugin.conf.IPAM.Type = ""
	plugin.links = bare{p}
	require.NoError(t, plugin.add(t.Context()))
	attached, _ := p.endpoint(c1.name())
	require.Empty(t, attached.IPs)
	require.Equal(t, tap.MAC{2, 0, 0, 0, 0, 7}, attached.MAC)
	require.NotContains(t, p.ports[c1.name()], "ip-address")
	var r types100.Result
	require.NoError(t, json.Unmarshal(out.Bytes(), &r))
	require.Empty(t, r.IPs)
}

// bare configures nothing.
type bare struct{ links }

func (bare) configure(pair, []ipConfig, []route) error { return nil }

// Where the switch completes nothing, containers do.
func TestAddFinishes(t *testing.T) {
	p := newPlace(t)
	for _, finish := range []bool{false, true} {
		p.change(func() { p.status.FinishFrames = finish })
		plugin, _ := p.plugin("")
		require.NoError(t, plugin.add(t.Context()))
		require.Equal(t, finish, p.pairs[c1.name()].finish)
		require.NoError(t, plugin.del(t.Context()))
	}
}

// Old runtimes get old results.
func TestResultVersions(t *testing.T) {
	p := newPlace(t)
	for _, v := range []string{"0.3.1", "0.4.0", "1.0.0"} {
		plugin, out := p.plugin("")
		plugin.conf.CNIVersion = v
		require.NoError(t, plugin.add(t.Context()))
		require.Contains(t, out.String(), `"cniVersion": "`+v+`"`)
		require.NoError(t, plugin.del(t.Context()))
	}
}
