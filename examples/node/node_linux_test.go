package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/internal/lab"
	"github.com/viasnet/vias/internal/nodeapi"
)

const bridge = "br0"

// traces is what a node could leave on a host.
type traces struct {
	flows, groups, links, sockets, pids []string
	nft                                 string
}

// testLab is a lab of two hosts and the test that uses it.
type testLab struct {
	*lab.Lab
	t *testing.T
}

// in runs a program in a namespace and returns its lines, sorted.
func (l testLab) in(ns string, args ...string) []string {
	l.t.Helper()
	out, err := exec.Command("ip", append([]string{"netns", "exec", ns}, args...)...).Output()
	require.NoError(l.t, err, "%q", args)
	return sorted(string(out))
}

func sorted(text string) (lines []string) {
	for line := range strings.Lines(text) {
		lines = append(lines, strings.TrimSpace(line))
	}
	slices.Sort(lines)
	return lines
}

func (l testLab) look(h *lab.Host) traces {
	l.t.Helper()
	dump := func(what string) []string {
		out, err := l.OVS(h.Index).Ofctl(context.Background(), "--no-stats", what, bridge)
		require.NoError(l.t, err)
		return sorted(out)
	}
	pids, err := exec.Command("ip", "netns", "pids", h.Namespace).Output()
	require.NoError(l.t, err)
	return traces{
		flows: dump("dump-flows"), groups: dump("dump-groups"),
		links:   l.in(h.Namespace, "ls", "/sys/class/net"),
		sockets: l.in(h.Namespace, "ss", "-Hlntu"),
		nft:     strings.Join(l.in(h.Namespace, "nft", "list", "ruleset"), "\n"),
		pids:    sorted(string(pids)),
	}
}

// start starts a background program in a namespace; kill ends it, as the test's end
// does. What it says goes behind the log of host h.
func (l testLab) start(h *lab.Host, ns string, args ...string) (kill func()) {
	l.t.Helper()
	log, err := os.OpenFile(h.Log(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(l.t, err)
	defer log.Close() // the child has its own
	cmd := exec.Command("ip", append([]string{"netns", "exec", ns}, args...)...)
	cmd.Stderr = log
	require.NoError(l.t, cmd.Start())
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	l.t.Cleanup(kill)
	return kill
}

// logs shows what the nodes said of a test that failed.
func (l testLab) logs() {
	if !l.t.Failed() {
		return
	}
	for _, h := range l.Hosts() {
		log, _ := os.ReadFile(h.Log())
		flows, _ := l.OVS(h.Index).Ofctl(context.Background(), "dump-flows", bridge)
		if sw, err := os.ReadFile(filepath.Join(h.OVSDir, "ovs-vswitchd.log")); err == nil {
			l.t.Logf("host %d's switch:\n%s", h.Index, sw[max(0, len(sw)-3000):])
		}
		l.t.Logf("host %d:\n%s\n%s", h.Index, log, flows)
	}
}

// eventually polls.
func (l testLab) eventually(limit time.Duration, what string, ok func() bool) {
	l.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(limit); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			require.FailNow(l.t, "not in time: "+what)
		}
	}
}

// bypassed tells whether both nodes have the test's data connection on the bypass.
func (l testLab) bypassed() bool {
	for _, h := range l.Hosts() {
		s, err := l.Node(h.Index).Status(context.Background())
		if err != nil || !slices.ContainsFunc(s.Flows, func(f nodeapi.Flow) bool {
			return f.State == nodeapi.FlowBypassed && f.RuleBytes > 100_000
		}) {
			return false
		}
	}
	return true
}

// traffic starts a connection between the two containers, and waits until it is
// bypassed.
func (l testLab) traffic() (kill func()) {
	l.t.Helper()
	h1, h2 := l.Hosts()[0], l.Hosts()[1]
	client, server := h1.Containers[0], h2.Containers[0]
	killServer := l.start(h2, server.Namespace, "iperf3", "-s", "-1", "-p", strconv.Itoa(testPort))
	l.eventually(5*time.Second, "the server listens", func() bool {
		return strings.Contains(strings.Join(l.in(server.Namespace, "ss", "-Hlnt"), " "), fmt.Sprint(":", testPort))
	})
	killClient := l.start(h1, client.Namespace, "iperf3", "-c", server.Addr.String(), "-p", strconv.Itoa(testPort), "-b", "5M", "-t", "60")
	l.eventually(15*time.Second, "the flow is bypassed", l.bypassed)
	return func() {
		killClient()
		killServer()
	}
}

// extra are lines of now that were not there before.
func extra(now, before []string) (list []string) {
	for _, line := range now {
		if !slices.Contains(before, line) {
			list = append(list, line)
		}
	}
	return list
}

func TestIntegrationNode(t *testing.T) {
	itest.Require(t, "ip", "ss", "ping", "nft", "iperf3", "ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "ovs-ofctl")
	root, err := os.MkdirTemp("", "vn") // t.TempDir is too long for sockets
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	up, err := lab.Up(t.Context(), lab.Config{Prefix: "vn" + filepath.Base(root)[2:] + "-", Root: root})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, up.Down(context.Background())) })
	l := testLab{up, t}
	t.Cleanup(l.logs)
	before := map[*lab.Host]traces{}
	for _, h := range l.Hosts() {
		before[h] = l.look(h)
	}
	self, err := os.Executable()
	require.NoError(t, err)
	t.Setenv(playNode, "1") // to whom the lab starts

	require.NoError(t, l.StartNodes(t.Context(), self))
	l.checkCommand(self)
	endTraffic := l.traffic()
	for _, h := range l.Hosts() {
		require.NoError(t, syscall.Kill(l.NodePID(h.Index), syscall.SIGTERM))
	}
	l.afterTerm(before)
	endTraffic()
	l.afterKill(self, before)
}

// checkCommand: a running node's requirements are met; one that is not is found.
func (l testLab) checkCommand(self string) {
	h := l.Hosts()[0]
	check := func() (string, error) {
		out, err := exec.Command("ip", "netns", "exec", h.Namespace, self, "check", "-config", h.Config()).CombinedOutput()
		return string(out), err
	}
	text, err := check()
	require.NoError(l.t, err, text)
	require.Contains(l.t, text, "all 19 requirements are met")
	require.Contains(l.t, text, "ok   checksums on the bypass: userspace-tso-enable on a virtual uplink")
	require.Contains(l.t, text, "ok   IPv6 on the underlay: ")
	_, err = l.OVS(h.Index).Vsctl(l.t.Context(), "remove", "Open_vSwitch", ".", "other_config", "userspace-tso-enable")
	require.NoError(l.t, err)
	text, err = check()
	require.NoError(l.t, err, text)
	require.Contains(l.t, text, "mind checksums on the bypass: datapath_type=netdev without userspace-tso-enable")
	_, err = l.OVS(h.Index).Vsctl(l.t.Context(), "set", "Open_vSwitch", ".", "other_config:userspace-tso-enable=true")
	require.NoError(l.t, err)
	_, err = l.OVS(h.Index).Vsctl(l.t.Context(), "clear", "port", "eth0", "trunks")
	require.NoError(l.t, err)
	text, err = check()
	require.Error(l.t, err)
	require.Contains(l.t, text, "eth0 carries the workloads' VLAN 7")
	_, err = l.OVS(h.Index).Vsctl(l.t.Context(), "set", "port", "eth0", "trunks=0")
	require.NoError(l.t, err)
}

// afterTerm: an orderly end leaves nothing.
func (l testLab) afterTerm(before map[*lab.Host]traces) {
	for _, h := range l.Hosts() {
		l.eventually(10*time.Second, "the node ends", func() bool { return slices.Equal(l.look(h).pids, before[h].pids) })
		require.Equal(l.t, before[h], l.look(h), "host %d", h.Index)
		require.NoFileExists(l.t, h.Status())
		log, err := os.ReadFile(h.Log())
		require.NoError(l.t, err)
		require.Contains(l.t, string(log), "node has ended", "exit code 0")
	}
}

// afterKill: what a killed node leaves in the switch is gone one lease later. A new
// node replaces its socket.
func (l testLab) afterKill(self string, before map[*lab.Host]traces) {
	var kill []func()
	for _, h := range l.Hosts() {
		kill = append(kill, l.start(h, h.Namespace, self, "-config", h.Config()))
	}
	for _, h := range l.Hosts() {
		l.eventually(15*time.Second, "the nodes are linked again", func() bool {
			s, err := l.Node(h.Index).Status(context.Background())
			return err == nil && s.Ready && len(s.Peers) == 1 && s.Peers[0].State == nodeapi.PeerUp
		})
	}
	// What no bypass takes shows whether the switch reads the new process's TAP.
	h1, h2 := l.Hosts()[0].Containers[0], l.Hosts()[1].Containers[0]
	l.eventually(10*time.Second, "a ping goes over the overlay", func() bool {
		return exec.Command("ip", "netns", "exec", h1.Namespace, "ping", "-q", "-c1", "-W1", h2.Addr.String()).Run() == nil
	})
	l.traffic()
	for _, k := range kill {
		k()
	}
	killed := time.Now()
	for _, h := range l.Hosts() {
		// One second for the switch to look at its time-outs, one for us to look at it.
		l.eventually(lease+2*time.Second-time.Since(killed), "no flow of ours is left", func() bool {
			return len(extra(l.look(h).flows, before[h].flows)) == 0
		})
		now := l.look(h)
		require.Equal(l.t, before[h].links, now.links)
		require.Equal(l.t, before[h].nft, now.nft)
		require.Equal(l.t, before[h].sockets, now.sockets)
		require.FileExists(l.t, h.Status())
	}
	h := l.Hosts()[0]
	l.start(h, h.Namespace, self, "-config", h.Config())
	l.eventually(10*time.Second, "a new node answers on the dead one's socket", func() bool {
		s, err := l.Node(h.Index).Status(context.Background())
		return err == nil && s.Ready
	})
}
