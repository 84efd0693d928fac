package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/internal/lab"
	"github.com/viasnet/vias/internal/nodeapi"
)

// world is a lab of two hosts with real switches and nodes, and the plugin on both of them.
type world struct {
	*lab.Lab
	t       *testing.T
	network string // the CNI network's name
	bin     string // CNI_PATH
	node    string // the node's program
	prefix  string // of containers' namespaces
}

// newWorld is up, with a node on each host.
func newWorld(t *testing.T) world {
	itest.Require(t, "go", "ip", "ss", "ping", "nft", "iperf3", "ethtool", "sysctl", "ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "ovs-ofctl")
	var built itest.Programs
	t.Cleanup(func() { require.NoError(t, built.Remove()) })
	root, err := os.MkdirTemp("", "vc") // t.TempDir is too long for sockets
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	id := filepath.Base(root)
	w := world{t: t, network: id, bin: filepath.Join(root, "bin"), prefix: id + "-k", node: built.Path(t, "github.com/viasnet/vias/examples/node")}
	w.programs()
	up, err := lab.Up(t.Context(), lab.Config{Prefix: id + "-", Root: root})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, up.Down(context.Background())) })
	w.Lab = up
	t.Cleanup(w.logs)
	w.clearCache()
	for _, h := range w.Hosts() {
		w.configure(h)
	}
	require.NoError(t, w.StartNodes(t.Context(), w.node))
	return w
}

// clearCache removes at the end what cnitool's library keeps of each attachment, and its folders if
// they were not there.
func (w world) clearCache() {
	const top, results = "/var/lib/cni", "/var/lib/cni/results"
	_, missing := os.Stat(top)
	w.t.Cleanup(func() {
		files, err := filepath.Glob(results + "/" + w.network + "-*")
		require.NoError(w.t, err)
		for _, f := range files {
			require.NoError(w.t, os.Remove(f))
		}
		if missing != nil {
			_, _ = os.Remove(results), os.Remove(top) // unless somebody else has something there now
		}
	})
}

// programs fills CNI_PATH: cnitool and host-local come from the module in testdata/tools, as its
// go.sum pins them; the plugin is this test.
func (w world) programs() {
	require.NoError(w.t, os.MkdirAll(w.bin, 0o700))
	build := exec.Command("go", "build", "-o", w.bin, "tool")
	build.Dir = "testdata/tools"
	out, err := build.CombinedOutput()
	require.NoError(w.t, err, "%s", out)
	self, err := os.Executable()
	require.NoError(w.t, err)
	require.NoError(w.t, os.Symlink(self, filepath.Join(w.bin, "vias")))
}

func (w world) netDir(h *lab.Host) string { return filepath.Join(h.Dir, "net.d") }

// plugConf is the plugin's configuration on a host; the hosts give out different addresses of
// one network.
func (w world) plugConf(h *lab.Host) map[string]any {
	return map[string]any{
		"type": "vias", "bridge": "br0", "socket": h.Status(), "ovsdb": w.OVS(h.Index).DB(), "vlan": 7, "tag": "blue",
		"ipam": map[string]any{
			"type": "host-local", "dataDir": filepath.Join(h.Dir, "ipam"),
			"ranges": [][]map[string]string{
				{{"subnet": "10.77.0.0/24", "rangeStart": fmt.Sprintf("10.77.0.1%d1", h.Index), "rangeEnd": fmt.Sprintf("10.77.0.1%d9", h.Index)}},
				{{"subnet": "fd77::/64", "rangeStart": fmt.Sprintf("fd77::1%d1", h.Index), "rangeEnd": fmt.Sprintf("fd77::1%d9", h.Index)}},
			},
			"routes": []map[string]string{{"dst": "10.88.0.0/16", "gw": "10.77.0.254"}, {"dst": "fd88::/64"}},
		},
	}
}

func (w world) configure(h *lab.Host) {
	require.NoError(w.t, os.MkdirAll(w.netDir(h), 0o700))
	text, err := json.Marshal(map[string]any{"cniVersion": "1.1.0", "name": w.network, "plugins": []any{w.plugConf(h)}})
	require.NoError(w.t, err)
	require.NoError(w.t, os.WriteFile(filepath.Join(w.netDir(h), "10-vias.conflist"), text, 0o600))
}

// container makes an empty one: a namespace. It may be gone before the test ends.
func (w world) container(name string) (netns string) {
	w.t.Helper()
	netns = w.prefix + name
	w.must("ip", "netns", "add", netns)
	w.t.Cleanup(func() {
		if _, err := os.Stat(path(netns)); err == nil {
			w.must("ip", "netns", "del", netns)
		}
	})
	w.must("ip", "-n", netns, "link", "set", "lo", "up")
	return netns
}

func path(netns string) string { return "/run/netns/" + netns }

func (w world) must(args ...string) string {
	w.t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	require.NoError(w.t, err, "%q: %s", args, out)
	return strings.TrimSpace(string(out))
}

// in is a program that runs in a namespace.
func in(ns string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", ns}, args...)...)
}

// tool runs cnitool on a host.
func (w world) tool(h *lab.Host, verb, netns string) (string, error) {
	cmd := in(h.Namespace, filepath.Join(w.bin, "cnitool"), verb, w.network, path(netns))
	cmd.Env = append(os.Environ(), "CNI_PATH="+w.bin, "NETCONFPATH="+w.netDir(h), playPlugin+"=1")
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (w world) mustTool(h *lab.Host, verb, netns string) string {
	w.t.Helper()
	out, err := w.tool(h, verb, netns)
	require.NoError(w.t, err, "cnitool %s: %s", verb, out)
	return out
}

func (w world) add(h *lab.Host, netns string) *types100.Result {
	w.t.Helper()
	r, err := types100.NewResult([]byte(w.mustTool(h, "add", netns)))
	require.NoError(w.t, err)
	result, err := types100.GetResult(r)
	require.NoError(w.t, err)
	return result
}

// call is one verb of the plugin, run without a runtime between.
type call struct {
	verb, container, ifname, netns string
	// extra is added to the configuration.
	extra map[string]any
	// path has programs that go before others of their name; "" = none.
	path string
	// socket is a node's, in the place of the host's own.
	socket string
}

// command is the process of a call, ready to start.
func (w world) command(h *lab.Host, c call) *exec.Cmd {
	conf := w.plugConf(h)
	conf["cniVersion"], conf["name"] = "1.1.0", w.network
	if c.socket != "" {
		conf["socket"] = c.socket
	}
	for k, v := range c.extra {
		conf[k] = v
	}
	text, err := json.Marshal(conf)
	require.NoError(w.t, err)
	cmd := in(h.Namespace, filepath.Join(w.bin, "vias"))
	cmd.Env = append(os.Environ(), playPlugin+"=1", "CNI_PATH="+strings.TrimPrefix(c.path+":"+w.bin, ":"), "CNI_COMMAND="+c.verb,
		"CNI_CONTAINERID="+c.container, "CNI_IFNAME="+c.ifname, "CNI_NETNS="+c.netns)
	if c.path != "" {
		cmd.Env = append(cmd.Env, "PATH="+c.path+":"+os.Getenv("PATH"))
	}
	cmd.Stdin = strings.NewReader(string(text))
	return cmd
}

// do runs a call; its error is a *types.Error.
func (w world) do(h *lab.Host, c call) error {
	w.t.Helper()
	out, err := w.command(h, c).Output()
	var exit *exec.ExitError
	if err == nil || !errors.As(err, &exit) {
		require.NoError(w.t, err)
		return nil
	}
	e := &types.Error{}
	require.NoError(w.t, json.Unmarshal(out, e), "%s %s %s", c.verb, out, exit.Stderr)
	return e
}

// fails tells that a call fails with that code.
func (w world) fails(h *lab.Host, c call, code uint) *types.Error {
	w.t.Helper()
	var e *types.Error
	require.ErrorAs(w.t, w.do(h, c), &e)
	require.Equal(w.t, code, e.Code, "%+v", e)
	return e
}

// traces is what the plugin could leave on a host.
type traces struct {
	links, ports, endpoints, leases []string
}

func (w world) look(h *lab.Host) traces {
	w.t.Helper()
	out, err := in(h.Namespace, "ls", "/sys/class/net").Output()
	require.NoError(w.t, err)
	ports, err := w.OVS(h.Index).Vsctl(w.t.Context(), "list-ports", "br0")
	require.NoError(w.t, err)
	seen := traces{links: strings.Fields(string(out)), ports: strings.Fields(ports)}
	if s, err := w.Node(h.Index).Status(w.t.Context()); err == nil {
		for _, e := range s.Endpoints {
			if e.Peer.IsZero() {
				seen.endpoints = append(seen.endpoints, e.Name)
			}
		}
	}
	files, err := filepath.Glob(filepath.Join(h.Dir, "ipam", "*", "1*"))
	require.NoError(w.t, err)
	for _, f := range files {
		seen.leases = append(seen.leases, filepath.Base(f))
	}
	for _, list := range [][]string{seen.links, seen.ports, seen.endpoints} {
		slices.Sort(list)
	}
	return seen
}

// eventually polls.
func (w world) eventually(limit time.Duration, what string, ok func() bool) {
	w.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(limit); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			require.FailNow(w.t, "not in time: "+what)
		}
	}
}

// pings tells that a container reaches an address.
func (w world) pings(netns string, to fmt.Stringer) {
	w.t.Helper()
	w.eventually(30*time.Second, netns+" reaches "+to.String(), func() bool {
		return in(netns, "ping", "-q", "-c1", "-W1", to.String()).Run() == nil
	})
}

// ready waits for the node of a host.
func (w world) ready(h *lab.Host) {
	w.t.Helper()
	w.eventually(40*time.Second, "the node is ready and linked", func() bool {
		s, err := w.Node(h.Index).Status(context.Background())
		return err == nil && s.Ready && len(s.Peers) == 1 && s.Peers[0].State == nodeapi.PeerUp
	})
}

// start starts a background program in a namespace; it ends with the test, or by kill.
func (w world) start(h *lab.Host, ns string, args ...string) (kill func()) {
	w.t.Helper()
	log, err := os.OpenFile(h.Log(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(w.t, err)
	defer log.Close() // the child has its own
	cmd := in(ns, args...)
	cmd.Stderr = log
	require.NoError(w.t, cmd.Start())
	ended := false
	kill = func() {
		if !ended {
			ended = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	w.t.Cleanup(kill)
	return kill
}

// logs shows what the nodes said of a test that failed.
func (w world) logs() {
	if !w.t.Failed() {
		return
	}
	for _, h := range w.Hosts() {
		log, _ := os.ReadFile(h.Log())
		w.t.Logf("host %d:\n%s", h.Index, log)
	}
}
