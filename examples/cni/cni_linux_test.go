package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/lab"
	"github.com/viasnet/vias/internal/nodeapi"
)

// TestIntegrationCNI: containers of two hosts by cnitool, and everything that can go wrong with one.
func TestIntegrationCNI(t *testing.T) {
	w := newWorld(t)
	h1, h2 := w.Hosts()[0], w.Hosts()[1]
	before := map[*lab.Host]traces{h1: w.look(h1), h2: w.look(h2)}

	w.mustTool(h1, "status", w.prefix)
	k1, k2 := w.container("1"), w.container("2")
	r1, r2 := w.add(h1, k1), w.add(h2, k2)
	w.isWhole(h1, k1, r1)
	w.mustTool(h1, "check", k1)
	w.mustTool(h2, "check", k2)
	w.bypasses(h1, h2, k1, k2, r2)

	w.doubleAdd(h1, k1, r1)
	w.netnsGone(h1)
	w.broken(h1)
	w.killed(h1)
	w.chained(h1)
	w.parallel(h1)
	w.nodeDown(h1, k1, r1)

	// libcni's GC without arguments takes all attachments that it knows, and then has the plugin take the rest.
	stray := w.container("stray")
	require.NoError(t, w.do(h2, call{verb: "ADD", container: "stray", ifname: "eth0", netns: path(stray)}))
	w.mustTool(h1, "gc", k1)
	w.mustTool(h2, "gc", k2)
	for _, h := range w.Hosts() {
		require.Equal(t, before[h], w.look(h), "host %d", h.Index)
	}
}

// isWhole: the result says what there is.
func (w world) isWhole(h *lab.Host, netns string, r *types100.Result) {
	t := w.t
	t.Helper()
	require.Equal(t, "1.1.0", r.CNIVersion)
	require.Len(t, r.Interfaces, 2)
	host, eth := r.Interfaces[0], r.Interfaces[1]
	require.Empty(t, host.Sandbox)
	require.Equal(t, []any{"eth0", path(netns), 1400, 1400}, []any{eth.Name, eth.Sandbox, eth.Mtu, host.Mtu})
	require.Len(t, r.IPs, 2)
	require.Equal(t, "10.77.0."+last(r)+"/24", r.IPs[0].Address.String())
	require.Equal(t, 1, *r.IPs[0].Interface)
	link := w.must("ip", "-n", netns, "-o", "link", "show", "eth0")
	require.Contains(t, link, "mtu 1400")
	require.Contains(t, link, eth.Mac)
	addrs := w.must("ip", "-n", netns, "-o", "addr", "show", "eth0")
	require.Contains(t, addrs, "inet 10.77.0."+last(r)+"/24")
	require.Contains(t, addrs, "inet6 fd77::"+last(r)+"/64")
	require.NotContains(t, addrs, "tentative fd77")
	require.Contains(t, w.must("ip", "-n", netns, "route"), "10.88.0.0/16 via 10.77.0.254 dev eth0")
	require.Contains(t, w.must("ip", "-n", netns, "-6", "route"), "fd88::/64 via fd77::1 dev eth0")

	vsctl := func(args ...string) string {
		out, err := w.OVS(h.Index).Vsctl(t.Context(), args...)
		require.NoError(t, err)
		return out
	}
	require.Equal(t, "br0", vsctl("port-to-br", host.Name))
	require.Equal(t, "7", vsctl("get", "port", host.Name, "tag"))
	ids := vsctl("get", "interface", host.Name, "external_ids")
	for _, want := range []string{`attached-mac="` + eth.Mac + `"`, "iface-id=" + host.Name, fmt.Sprintf(`ip-address="10.77.0.%[1]s,fd77::%[1]s"`, last(r)),
		"vias-cni-ifname=eth0", "vias-cni-network=" + w.network, "container-id=cnitool-"} {
		require.Contains(t, ids, want)
	}
	s, err := w.Node(h.Index).Status(t.Context())
	require.NoError(t, err)
	i := slices.IndexFunc(s.Endpoints, func(e nodeapi.Endpoint) bool { return e.Name == host.Name })
	require.GreaterOrEqual(t, i, 0)
	require.Equal(t, eth.Mac, s.Endpoints[i].MAC.String())
	require.NotZero(t, s.Endpoints[i].Ofport)
}

// bypasses: two containers on two hosts reach each other, and their TCP leaves the overlay.
func (w world) bypasses(h1, h2 *lab.Host, k1, k2 string, r2 *types100.Result) {
	for _, ip := range r2.IPs {
		w.pings(k1, ip.Address.IP)
	}
	server := w.start(h2, k2, "iperf3", "-s", "-1", "-p", "5999")
	w.eventually(20*time.Second, "the server listens", func() bool {
		out, _ := in(k2, "ss", "-Hlnt").Output()
		return strings.Contains(string(out), ":5999")
	})
	client := w.start(h1, k1, "iperf3", "-c", r2.IPs[0].Address.IP.String(), "-p", "5999", "-b", "5M", "-t", "60")
	w.eventually(40*time.Second, "the flow is bypassed", func() bool {
		for _, h := range w.Hosts() {
			s, err := w.Node(h.Index).Status(context.Background())
			if err != nil || !slices.ContainsFunc(s.Flows, func(f nodeapi.Flow) bool {
				return f.State == nodeapi.FlowBypassed && f.RuleBytes > 100_000
			}) {
				return false
			}
		}
		return true
	})
	client()
	server()
}

// doubleAdd: the second is refused, the first stays as it is.
func (w world) doubleAdd(h *lab.Host, k string, r *types100.Result) {
	was := w.look(h)
	out, err := w.tool(h, "add", k)
	require.Error(w.t, err)
	require.Contains(w.t, out, "has an interface eth0; choose another name, or DEL what has it")
	require.Equal(w.t, was, w.look(h))
	// Into another namespace too: the runtime has lost the first.
	id := w.idOf(h, r.Interfaces[0].Name)
	other := w.container("other")
	e := w.fails(h, call{verb: "ADD", container: id, ifname: "eth0", netns: path(other)}, codeExists)
	require.Contains(w.t, e.Msg, "DEL it first")
	require.Equal(w.t, was, w.look(h))
	w.mustTool(h, "check", k)
}

// idOf is the container that a port is of.
func (w world) idOf(h *lab.Host, port string) string {
	out, err := w.OVS(h.Index).Vsctl(w.t.Context(), "get", "interface", port, "external_ids:container-id")
	require.NoError(w.t, err)
	return strings.Trim(out, `"`)
}

// netnsGone: a container dies with its namespace; the node goes on, and DEL clears up, twice.
func (w world) netnsGone(h *lab.Host) {
	t, was := w.t, w.look(h)
	gone := call{verb: "ADD", container: "gone", ifname: "eth0", netns: path(w.prefix + "none")}
	w.fails(h, gone, types.ErrInvalidNetNS)
	gone.netns = path(h.Namespace)
	require.Contains(t, w.fails(h, gone, types.ErrInvalidNetNS).Details, "host's own")
	gone.netns = path(w.container("gone"))
	require.NoError(t, w.do(h, gone))
	w.must("ip", "netns", "del", filepath.Base(gone.netns))
	name := attachment{w.network, "gone", "eth0"}.name()
	w.eventually(30*time.Second, "the port's device is gone", func() bool { return !slices.Contains(w.look(h).links, name) })
	// The kernel's datapath would lose the port with it; that in user space keeps it.
	_, err := w.OVS(h.Index).Vsctl(t.Context(), "del-port", name)
	require.NoError(t, err)
	w.eventually(30*time.Second, "the node knows", func() bool {
		s, err := w.Node(h.Index).Status(t.Context())
		return err == nil && slices.ContainsFunc(s.Endpoints, func(e nodeapi.Endpoint) bool {
			return e.Name == name && e.Ofport == 0
		})
	})
	require.NoError(t, w.do(h, call{verb: "STATUS"}), "one dead container is no reason to refuse others")
	gone.verb, gone.extra = "CHECK", w.prevResult("10.77.0.119/24")
	w.fails(h, gone, types.ErrInvalidNetNS)
	gone.verb, gone.extra = "DEL", nil
	require.NoError(t, w.do(h, gone))
	require.Equal(t, was, w.look(h))
	require.NoError(t, w.do(h, gone), "idempotent")
	require.NoError(t, w.do(h, call{verb: "DEL", container: "never-added", ifname: "eth0"}), "without an ADD, and without a namespace")
	require.Equal(t, was, w.look(h))
}

// prevResult is a result of ADD for a container "gone".
func (w world) prevResult(address string) map[string]any {
	return map[string]any{"prevResult": map[string]any{"cniVersion": "1.1.0",
		"interfaces": []any{map[string]any{"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": path(w.prefix + "gone")}},
		"ips":        []any{map[string]any{"interface": 0, "address": address}}}}
}

// broken: CHECK finds what is not as ADD left it, one thing after the other.
func (w world) broken(h *lab.Host) {
	t, was := w.t, w.look(h)
	k := w.container("b")
	r := w.add(h, k)
	port := r.Interfaces[0].Name
	check := func(want string) {
		t.Helper()
		out, err := w.tool(h, "check", k)
		require.Error(t, err)
		require.Contains(t, out, want)
	}
	vsctl := func(args ...string) {
		t.Helper()
		_, err := w.OVS(h.Index).Vsctl(t.Context(), args...)
		require.NoError(t, err)
	}
	for _, harm := range []struct {
		do, undo func()
		says     string
	}{
		{func() { w.must("ip", "-n", k, "link", "set", "eth0", "mtu", "1300") }, func() { w.must("ip", "-n", k, "link", "set", "eth0", "mtu", "1400") }, "its MTU is 1300"},
		{func() { w.must("ip", "-n", k, "route", "del", "10.88.0.0/16") }, func() { w.must("ip", "-n", k, "route", "add", "10.88.0.0/16", "via", "10.77.0.254") }, "no route to 10.88.0.0/16"},
		{func() { w.must("ip", "-n", k, "addr", "del", "fd77::"+last(r)+"/64", "dev", "eth0") },
			func() {
				w.must("ip", "-n", k, "addr", "add", "fd77::"+last(r)+"/64", "dev", "eth0", "nodad")
				w.must("ip", "-n", k, "-6", "route", "replace", "fd88::/64", "via", "fd77::1")
			}, "no address fd77::"},
		{func() { w.must("ip", "-n", h.Namespace, "link", "set", port, "down") }, func() { w.must("ip", "-n", h.Namespace, "link", "set", port, "up") }, "is down"},
		{func() { require.NoError(t, w.Node(h.Index).Detach(t.Context(), port)) }, nil, "has no endpoint"},
		{func() { vsctl("del-port", port) }, nil, "has lost the container's port"},
		{func() { w.must("ip", "-n", k, "link", "del", "eth0") }, nil, "not as ADD left it"},
	} {
		harm.do()
		check(harm.says)
		if harm.undo != nil {
			harm.undo()
			w.mustTool(h, "check", k)
		}
	}
	w.mustTool(h, "del", k)
	w.mustTool(h, "del", k)
	require.Equal(t, was, w.look(h))
}

// last is the last part of a result's addresses.
func last(r *types100.Result) string {
	a := netip.MustParseAddr(r.IPs[0].Address.IP.String()).As4()
	return fmt.Sprint(a[3])
}

// nodeDown: without a node nothing can be added, and everything be deleted. A new node without
// discovery knows nothing of the old one's containers, which CHECK says.
func (w world) nodeDown(h *lab.Host, k string, r *types100.Result) {
	t, was := w.t, w.look(h)
	lost := call{verb: "ADD", container: "lost", ifname: "eth0", netns: path(w.container("lost"))}
	require.NoError(t, w.do(h, lost))
	require.NoError(t, syscall.Kill(w.NodePID(h.Index), syscall.SIGKILL))
	w.dead(h)
	e := w.fails(h, call{verb: "STATUS"}, types.ErrLimitedConnectivity)
	require.Contains(t, e.Msg, "2 containers")
	e = w.fails(h, call{verb: "ADD", container: "more", ifname: "eth0", netns: path(w.container("more"))}, types.ErrTryAgainLater)
	require.Contains(t, e.Msg, "start it")
	out, err := w.tool(h, "check", k)
	require.Error(t, err)
	require.Contains(t, out, "no vias node answers")
	lost.verb = "DEL"
	require.NoError(t, w.do(h, lost))
	now := w.look(h)
	require.Equal(t, [][]string{was.links, was.ports, was.leases}, [][]string{now.links, now.ports, now.leases})

	// What the database says of the switch is what its next start does, and what a node goes by.
	_, err = w.OVS(h.Index).Vsctl(t.Context(), "remove", "Open_vSwitch", ".", "other_config", "userspace-tso-enable")
	require.NoError(t, err)
	kill := w.start(h, h.Namespace, w.node, "-config", h.Config())
	w.ready(h)
	out, err = w.tool(h, "check", k)
	require.Error(t, err)
	require.Contains(t, out, "it may have been restarted")
	w.mustTool(h, "del", k)
	w.isWhole(h, k, w.add(h, k))
	require.Contains(t, w.must("ip", "netns", "exec", k, "ethtool", "-k", "eth0"), "tx-checksumming: off")
	w.pings(k, w.Hosts()[1].Containers[0].Addr)
	kill()
	w.dead(h)
	w.found(h, k)
}

func (w world) dead(h *lab.Host) {
	w.t.Helper()
	w.eventually(20*time.Second, "the node is dead", func() bool {
		_, err := w.Node(h.Index).Status(w.t.Context())
		return err != nil
	})
}

// found: a node with discovery that is started again finds a container whose ADD an earlier one
// answered, as ADD left it; DEL needs no node that was told of it.
func (w world) found(h *lab.Host, k string) {
	t := w.t
	w.start(h, h.Namespace, w.node, "-config", w.discovering(h))
	w.ready(h)
	w.mustTool(h, "check", k)
	w.pings(k, w.Hosts()[1].Containers[0].Addr)
	status := func() nodeapi.Endpoint {
		s, err := w.Node(h.Index).Status(t.Context())
		require.NoError(t, err)
		i := slices.IndexFunc(s.Endpoints, func(e nodeapi.Endpoint) bool { return e.Tag == "blue" && e.Peer.IsZero() })
		if i < 0 {
			return nodeapi.Endpoint{}
		}
		return s.Endpoints[i]
	}
	e := status()
	require.Equal(t, "external_ids", e.Known)
	require.ErrorContains(t, w.Node(h.Index).Detach(t.Context(), e.Name), "was found at port "+e.Name)
	w.mustTool(h, "del", k)
	w.eventually(10*time.Second, "it is gone with its port", func() bool { return status().Name == "" })
	w.isWhole(h, k, w.add(h, k))
	require.Equal(t, nodeapi.Configured, status().Known)
	w.pings(k, w.Hosts()[1].Containers[0].Addr)
}

// discovering is the configuration of a host's node, with discovery.
func (w world) discovering(h *lab.Host) (file string) {
	text, err := os.ReadFile(h.Config())
	require.NoError(w.t, err)
	var cfg map[string]any
	require.NoError(w.t, json.Unmarshal(text, &cfg))
	cfg["discover"] = true
	text, err = json.Marshal(cfg)
	require.NoError(w.t, err)
	file = filepath.Join(h.Dir, "discovering.json")
	require.NoError(w.t, os.WriteFile(file, text, 0o600))
	return file
}

// parallel: runtimes add and delete different containers at once.
func (w world) parallel(h *lab.Host) {
	t, was := w.t, w.look(h)
	const n = 6
	for _, verb := range []string{"ADD", "DEL"} {
		var running []*exec.Cmd
		for i := range n {
			name := fmt.Sprint("p", i)
			c := call{verb: verb, container: name, ifname: "eth0", netns: path(w.prefix + name)}
			if verb == "ADD" {
				c.netns = path(w.container(name))
			}
			cmd := w.command(h, c)
			require.NoError(t, cmd.Start())
			running = append(running, cmd)
		}
		for _, cmd := range running {
			require.NoError(t, cmd.Wait(), verb)
		}
		if verb == "ADD" {
			require.Len(t, w.look(h).endpoints, len(was.endpoints)+n)
		}
	}
	require.Equal(t, was, w.look(h))
}

// chained: what came before is carried on, the runtime's MAC is taken.
func (w world) chained(h *lab.Host) {
	t, was := w.t, w.look(h)
	c := call{verb: "ADD", container: "chained", ifname: "eth1", netns: path(w.container("chained")), extra: map[string]any{
		"runtimeConfig": map[string]any{"mac": "02:77:00:00:00:99"}, "no_tx_offload": true, "mtu": 1300,
		"prevResult": map[string]any{"cniVersion": "1.1.0", "interfaces": []any{map[string]any{"name": "eth0", "sandbox": "/x"}},
			"ips": []any{map[string]any{"interface": 0, "address": "10.9.9.9/24"}}}}}
	out, err := w.command(h, c).Output()
	require.NoError(t, err, "%s", out)
	r, err := types100.NewResult(out)
	require.NoError(t, err)
	result := r.(*types100.Result)
	require.Equal(t, []string{"eth0", attachment{w.network, "chained", "eth1"}.name(), "eth1"},
		[]string{result.Interfaces[0].Name, result.Interfaces[1].Name, result.Interfaces[2].Name})
	require.Equal(t, "02:77:00:00:00:99", result.Interfaces[2].Mac)
	require.Equal(t, []int{0, 2, 2}, []int{*result.IPs[0].Interface, *result.IPs[1].Interface, *result.IPs[2].Interface})
	require.Contains(t, w.must("ip", "netns", "exec", filepath.Base(c.netns), "ethtool", "-k", "eth1"), "tx-checksumming: off")
	c.verb, c.extra = "CHECK", map[string]any{"prevResult": result}
	require.NoError(t, w.do(h, c))

	// GC leaves what is valid, and takes the rest.
	valid := map[string]any{"cni.dev/valid-attachments": []any{
		map[string]any{"containerID": "chained", "ifname": "eth1"}, map[string]any{"containerID": w.idOf(h, w.portOf(h, "eth0")), "ifname": "eth0"}}}
	stale := call{verb: "ADD", container: "stale", ifname: "eth0", netns: path(w.container("stale"))}
	with := w.look(h)
	require.NoError(t, w.do(h, stale))
	require.NoError(t, w.do(h, call{verb: "GC", extra: valid}))
	require.Equal(t, with, w.look(h))
	require.NoError(t, w.do(h, c))
	c.verb, c.extra = "DEL", nil
	require.NoError(t, w.do(h, c))
	require.Equal(t, was, w.look(h))
}

// portOf is the only port of the network whose container calls it so.
func (w world) portOf(h *lab.Host, ifname string) string {
	out, err := w.OVS(h.Index).Vsctl(w.t.Context(), "--bare", "--columns=name", "find", "interface", "external_ids:vias-cni-ifname="+ifname)
	require.NoError(w.t, err)
	return strings.TrimSpace(out)
}
